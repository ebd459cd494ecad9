"""Rules for the code: layers, a core without I/O, exports, and names of files."""

from __future__ import annotations

import ast
import configparser
import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mdstream
from mdstream.streams import STREAMS
from mdstream.streams.spec import CODED

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "mdstream").rglob("*.py"), *(ROOT / "workers").rglob("*.py")])


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def find_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_layers_hold() -> None:
    linter = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_protocol_has_no_input_and_no_output() -> None:
    forbidden = {"asyncio", "socket", "time", "random", "websockets", "aiohttp", "threading", "os"}
    for path in (ROOT / "mdstream" / "wire").glob("*.py"):
        assert not find_imports(path) & forbidden, path


def test_only_the_pool_imports_the_workers() -> None:
    users = {
        p.name
        for p in SOURCES
        if p.is_relative_to(ROOT / "mdstream")
        and any(m.split(".")[0] == "workers" for m in find_imports(p))
    }
    assert users == {"worker_code.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_is_for(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree), "no docstring"
    assert not re.search(r"(utils|helpers|common|manager|base)\.py$", path.name), (
        "the file name does not say what the file is for"
    )


def test_a_long_file_says_why_it_is_long() -> None:
    for package in ("mdstream", "workers", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if text.count("\n") > 400:
                header = ast.get_docstring(ast.parse(text)) or ""
                assert re.search(r"\bfile\b[^.]*\blong\b", header), (
                    f"{path}: divide it, or say why it is long"
                )


def test_no_stream_is_known_by_name_in_shared_code() -> None:
    own = [ROOT / "mdstream" / "streams", ROOT / "mdstream" / "simulator" / "markets"]
    names = "|".join(STREAMS)
    key = re.compile(rf"({names})(\.\w+)?")
    module = re.compile(rf"mdstream\.(streams|simulator\.markets)\.({names})")
    for path in (f for f in SOURCES if not any(f.is_relative_to(folder) for folder in own)):
        assert not any(map(module.fullmatch, find_imports(path))), path
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not key.fullmatch(node.value), f"{path}:{node.lineno} names {node.value!r}"


def test_a_stream_is_a_declaration_a_market_and_a_line_in_each_registry() -> None:
    registries = {"mdstream/streams/__init__.py", "mdstream/simulator/markets/__init__.py"}
    files = {"mdstream/streams/perps.py", "mdstream/simulator/markets/perps.py"}
    found = {
        str(path.relative_to(ROOT)): [
            line for line in path.read_text().splitlines() if re.search("perps", line, re.IGNORECASE)
        ]
        for path in SOURCES
    }
    assert {path for path, lines in found.items() if lines} == registries | files
    for path in registries:
        assert len(found[path]) == 2, "a registry has an import and a line"


@pytest.mark.parametrize("spec", STREAMS.values(), ids=lambda s: s.name)
def test_a_stream_declaration_is_sound(spec: object) -> None:
    from mdstream.streams.spec import StreamSpec

    assert isinstance(spec, StreamSpec)
    assert spec.default_feed in spec.feeds
    assert spec.codec in spec.codecs
    assert set(spec.mute_after_s) <= set(spec.subscriptions)
    types = [t for c in spec.channels for t in c.types]
    assert len(types) == len(set(types))
    for channel in spec.channels:
        names = [c.name for c in channel.columns]
        assert len(names) == len(set(names)) <= 63, "a head has one bit per column"
        assert names[-1] == "recv_ts"
        for column in channel.columns:
            assert bool(column.dictionary) is (column.kind in CODED), column.name
            assert not column.side_of or column.side_of in names


def test_everything_exported_exists() -> None:
    for name in mdstream.__all__:
        assert getattr(mdstream, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = mdstream.nonsense  # type: ignore[attr-defined]


def test_type_checkers_see_the_exports_that_there_are() -> None:
    tree = ast.parse((ROOT / "mdstream" / "__init__.py").read_text())
    shown = {
        alias.asname: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == mdstream._WHERE


def test_only_our_packages_would_be_installed() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert parser["options.packages.find"]["include"].split() == ["mdstream*", "workers*"]


def test_no_program_is_pinned_twice() -> None:
    names = [
        re.split(r"[=<>\[]", line)[0].lower()
        for file in ("run.txt", "dev.txt")
        for line in (ROOT / "requirements" / file).read_text().splitlines()
        if line and not line.startswith(("#", "-"))
    ]
    assert len(names) == len(set(names))
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    wanted = {re.split(r"[=<>]", n)[0].lower() for n in parser["options"]["install_requires"].split()}
    assert {n.replace("_", "-") for n in wanted} <= {n.replace("_", "-") for n in names}


def test_every_error_is_in_the_tree_that_errors_py_draws() -> None:
    from mdstream import errors

    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert errors.__doc__ is not None
    drawn = set(re.findall(r"\b[A-Z]\w*Error\b", errors.__doc__))
    assert drawn == {c.__name__ for c in classes}
    for path in SOURCES:
        elsewhere = [
            node.name
            for node in ast.walk(parse(path))
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and path.name != "errors.py"
        ]
        assert not elsewhere, f"{path.name} defines {elsewhere}"


def test_no_class_name_is_used_twice() -> None:
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_no_function_is_named_by_a_participle_alone() -> None:
    """Properties may be, and so may the words that `workers/kernels` adds to numba."""
    participle = re.compile(
        r"_?([a-z]+(ed|ing)|built|broken|done|due|found|given|kept|known|lost|sent|written)"
    )
    words = {"feed", "succeed", "setting", "sibling", "pricing"}
    for path in (f for f in SOURCES if not f.is_relative_to(ROOT / "workers" / "kernels")):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                is_property = any(
                    re.search(r"property|setter", ast.unparse(d)) for d in node.decorator_list
                )
                is_named = participle.fullmatch(node.name) and node.name.strip("_") not in words
                assert is_property or not is_named, f"{path}:{node.lineno} {node.name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in SOURCES}
    arrows: dict[str, set[str]] = {}
    for path in SOURCES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found = set()
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                each = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= each & names or {node.module} & names
        arrows[name] = found - {name}
    while free := {name for name, found in arrows.items() if not found & arrows.keys()}:
        arrows = {name: found for name, found in arrows.items() if name not in free}
    assert not arrows, "these modules import each other, or import modules that do"


def test_the_state_of_a_class_is_a_typed_block() -> None:
    """A comment about the state alone has no types, and nobody notices when it is no longer true."""
    prose = re.compile(r"^    # [^\n]*\bstate\b[^\n]*\n(    #[^\n]*\n)*\n", re.IGNORECASE | re.MULTILINE)
    for path in SOURCES:
        for found in prose.finditer(path.read_text()):
            assert not found, f"{path}: write typed names below {found[0].strip()!r}"
