"""What mkdocs runs while it builds the site: generated parts, documents from outside of docs/, and links.

1. `<!-- generate NAME -->` in a page becomes what `docs.generate.GENERATORS[NAME]` returns.
2. Documents from elsewhere in the repository (`OUTSIDE`) become pages of the site, with their pictures.
3. Links to them, and from them, lead to the pages of the site.
4. A page that loads a script, style, font or picture from another host is refused: the site works offline.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.generate import GENERATORS  # noqa: E402

OUTSIDE = {
    "results.md": "benchmarks/RESULTS.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site → document in the repository."""

REPOSITORY_ONLY = ("LICENSE", "benchmarks", "examples", "mdstream", "tests", "workers")
"""What pages may name in links and the site does not hold: these links become their text."""

_MARK = re.compile(r"^<!-- generate ([\w-]+) -->$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")

_SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme loads so that the search works from a file; ours is in docs/javascripts."""
_LOADED = re.compile(r"<(?:script|img|link(?=[^>]*stylesheet))[^>]*(?:src|href)=\"?(https?://[^\"\s>]+)")

_used: set[str] = set()


def on_pre_build(config: Any) -> None:
    """Forget which parts were used in an earlier build."""
    _used.clear()


def on_files(files: Any, config: Any) -> Any:
    """Add the documents that stand outside of docs/, and their pictures."""
    for name, source in OUTSIDE.items():
        path = ROOT / source
        files.append(File.generated(config, name, content=path.read_text(encoding="utf-8")))
        for target in _pictures(path):
            files.append(File.generated(config, target, abs_src_path=str(path.parent / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put generated parts in their places, and turn links towards the site."""
    uri = page.file.src_uri
    source = OUTSIDE.get(uri, f"docs/{uri}")
    return _MARK.sub(lambda match: _generated(match[1], uri), relink(markdown, source, uri))


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Have the page load nothing from another host."""
    return _offline(output, page.file.dest_uri)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """Have a page that is made of a template alone (404) load nothing from another host."""
    return _offline(output_content, template_name)


def on_post_build(config: Any) -> None:
    """Refuse a site that lacks a generated part."""
    if unused := sorted(set(GENERATORS) - _used):
        raise PluginError(f"no page shows the generated parts {', '.join(unused)}")


def relink(markdown: str, source: str, uri: str) -> str:
    """Return a document with its links as the site needs them.

    `source` is its path in the repository, `uri` that of its page below docs/.
    """

    def link(match: re.Match[str]) -> str:
        sign, text, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if sign or not path or "://" in path or path.startswith("mailto:"):
            return match[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        pages = {document: name for name, document in OUTSIDE.items()}
        if there == "README.md":
            page = "index.md"
        elif there == "benchmarks/README.md":
            page = "measuring.md"
        elif there in pages:
            page = pages[there]
        elif there.startswith("docs/"):
            page = there.removeprefix("docs/")
        elif there.split("/")[0] in REPOSITORY_ONLY:
            return f"{text} (`{there}`)" if text != f"`{there}`" else text
        else:
            return match[0]  # mkdocs refuses it
        relative = posixpath.relpath(page, posixpath.dirname(uri) or ".")
        return f"[{text}]({relative}{hash_sign}{anchor})"

    return _outside_code(markdown, lambda text: _LINK.sub(link, text))


def _offline(html: str, uri: str) -> str:
    """Return a page with local scripts only. Raises `PluginError` where it loads something else."""
    up = "../" * uri.count("/")
    html = html.replace(_SHIM, f"{up}javascripts/iframe-worker.js")
    if found := _LOADED.findall(html):
        raise PluginError(f"{uri} loads from another host: {', '.join(found)}")
    return html


def _generated(name: str, uri: str) -> str:
    if name not in GENERATORS:
        raise PluginError(f"{uri}: no generated part {name!r}; there are {', '.join(GENERATORS)}")
    _used.add(name)
    return GENERATORS[name]()


def _pictures(path: Path) -> list[str]:
    """Return the pictures of a document, relative to its folder."""
    found = _LINK.findall(path.read_text(encoding="utf-8"))
    return [target for sign, _, target in found if sign and "://" not in target]


def _outside_code(markdown: str, change: Any) -> str:
    """Return `markdown` with `change` made to everything but fenced code."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)
