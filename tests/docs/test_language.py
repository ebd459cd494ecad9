"""The rules of the style sheet of CONTRIBUTING.md that a program can check.

Words: log lines, errors and docstrings do not use the words that the style sheet replaces.
Text in code quotes is not checked: `tell()` of a file is a term. `ALLOWED` has the permitted number of
offenders per folder, which may only decrease. `python -m tests.docs.test_language` prints the current
numbers. Width: Markdown is wrapped. Length: a sentence of README and docs has at most `LONGEST` words.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, PAGES, ROOT

WIDTH = 120
LONGEST = 30

BANNED = {
    r"told|tells?\b|telling": "report, notify, say",
    r"heed\w*": "handle",
    r"mend(s|ed|ing)?\b": "fix",
    r"odd\b(?! (lots?|number))": "malformed, unexpected",
    r"gave way|gives? way|giving way": "fall back",
    r"made way|makes? way|making way": "evict",
    r"the library('s)?\b": "the fallback decoder",
    r"asides?\b": "skipped messages",
    r"(takes?|took|taken) up\b(?! to)": "resume",
    r"seams?\b": "gap marker",
    r"patience": "timeout",
    r"company": "more messages",
    r"alike": "identical",
    r"lives\b": "restarts, is in",
    r"last words": "exit reason",
    r"lets? go|letting go": "start fetching, release",
    r"is no (symbol|number|stream|timeframe|port|folder|file|time|address)\b": "is not a ...",
    r"stands? (in|there)|stood (in|there)": "is in, is there",
    r"without a word": "silently, without a close frame",
    r"(shall|whoever|whomever|thereof|whereof)\b": "plain English",
    r"(?-i:Of)\b(?! course)": "begin with the subject",
}
"""Pattern → the words to write instead."""

ALLOWED: dict[str, int] = {}
"""Folder or package → the number of offenders that are left in it."""

_BANNED = re.compile("|".join(rf"(?:\b(?:{pattern}))" for pattern in BANNED), re.IGNORECASE)
_QUOTED = re.compile(r"`[^`]*`")


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield docstrings, arguments of log calls, and texts of raised errors, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"))) | ast.Raise():
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                        yield inner.lineno, inner.value


def find_offenders(path: Path) -> list[str]:
    """Return the places where a file uses a word that the style sheet replaces."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {found[0]!r} in {' '.join(text.split())[:80]!r}"
        for line, text in read_texts(path)
        for found in _BANNED.finditer(_QUOTED.sub("", text))
    ]


def list_folders() -> dict[str, list[Path]]:
    """Return the checked Python files by folder. Modules directly in a package are under its name."""
    found: dict[str, list[Path]] = {}
    for package in ("mdstream", "workers", "benchmarks", "docs", "examples"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).parts
            found.setdefault("/".join(parts[:2]) if len(parts) > 2 else package, []).append(path)
    return found


@pytest.mark.parametrize("folder", list_folders())
def test_texts_use_the_words_of_the_style_sheet(folder: str) -> None:
    found = [line for path in list_folders()[folder] for line in find_offenders(path)]
    allowed = ALLOWED.get(folder, 0)
    assert len(found) <= allowed, f"{allowed} are allowed, {len(found)} found:\n" + "\n".join(found)


def test_what_is_allowed_is_in_folders_that_exist() -> None:
    assert set(ALLOWED) <= set(list_folders())


def test_a_banned_word_is_found_and_a_quoted_one_is_not(tmp_path: Path) -> None:
    code = '''def f():\n    """It tells `told`."""\n    log.info("heeded")\n    raise E(f"{x} is no symbol")\n'''
    found = [
        match[0]
        for _, text in _read_texts_of_code(code, tmp_path)
        for match in _BANNED.finditer(_QUOTED.sub("", text))
    ]
    assert sorted(found) == ["heeded", "is no symbol", "tells"]


def _read_texts_of_code(code: str, folder: Path) -> list[tuple[int, str]]:
    path = folder / "code.py"
    path.write_text(code)
    return list(read_texts(path))


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda path: path.stem)
def test_pages_use_the_words_of_the_style_sheet(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    if path.name == "CONTRIBUTING.md":
        text = text.partition("| instead of |")[0]
    assert not [match[0] for match in _BANNED.finditer(_QUOTED.sub("", text))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_markdown_is_wrapped(path: Path) -> None:
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        bare = re.sub(r"\]\([^)]*\)", "]", line)
        wide = len(bare) > WIDTH and not inside and not line.startswith(("|", "**"))  # tables, their titles
        assert not wide, f"{path.name}:{number} has {len(bare)} characters"


_BLOCKS = re.compile(r"^```.*?^```$|<!--.*?-->", re.MULTILINE | re.DOTALL)
_TABLES_AND_HEADINGS = re.compile(r"^\s*[|#].*$", re.MULTILINE)
_ITEM = re.compile(r"\n\s*\n|^\s*(?:[-*]|\d+\.)\s+", re.MULTILINE)
_END = re.compile(r"(?<=[.!?])[*)\"]*\s+")


def read_sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page, without code blocks, tables and headings. Code is one word."""
    for item in _ITEM.split(_TABLES_AND_HEADINGS.sub("", _BLOCKS.sub("\n\n", text))):
        plain = _QUOTED.sub("code", re.sub(r"\]\([^)]*\)", "]", item))
        yield from _END.split(" ".join(plain.split()))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_sentences_of_pages_are_short(path: Path) -> None:
    long = {
        sentence: words
        for sentence in read_sentences(path.read_text(encoding="utf-8"))
        if (words := len(re.findall(r"\S*\w\S*", sentence))) > LONGEST
    }
    assert not long, f"divide what has more than {LONGEST} words"


def test_a_sentence_ends_at_its_full_stop_and_code_is_one_word() -> None:
    page = (
        "# A title\n\nOne `two three`. Four\nfive.\n- **Six.** Seven\n- eight\n\n| a | b |\n```\nx y\n```\n"
    )
    assert list(filter(None, read_sentences(page))) == [
        "One code.",
        "Four five.",
        "**Six.",
        "Seven",
        "eight",
    ]


def main() -> None:
    """Print the current `ALLOWED`, with every offender as a comment."""
    for folder, files in list_folders().items():
        if found := [line for path in files for line in find_offenders(path)]:
            print(f'    "{folder}": {len(found)},')
            for line in found:
                print(f"    # {line}")


if __name__ == "__main__":
    main()
