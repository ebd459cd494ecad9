"""The page on architecture names existing folders and files."""

from __future__ import annotations

import re

import pytest

from tests.docs.documents import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOTS = (ROOT / "mdstream", ROOT / "workers", ROOT, ROOT / "workers" / "decoding")
NAMES = sorted(set(re.findall(r"`((?:\w+/)+[\w*]*(?:\.\w+)?|[\w*]+\.py)`", PAGE)))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_on_the_page_exists(name: str) -> None:
    if name.startswith("feeds/"):
        return  # a folder of a run
    assert any(list(root.glob(name.rstrip("/"))) for root in ROOTS), name


def test_every_folder_of_the_package_is_in_the_table() -> None:
    table = PAGE.partition("| folder | what it does |")[2].partition("\n\n")[0]
    folders = {path.parent.name for path in (ROOT / "mdstream").glob("*/__init__.py")}
    assert not {name for name in folders if f"`{name}/" not in table}
