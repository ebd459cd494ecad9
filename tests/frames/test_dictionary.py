from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdstream.frames.dictionary import DictionaryReader, DictionaryWriter

TEXTS = st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=8), max_size=6)


@given(TEXTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_codes_are_given_in_order_and_read_back(tmp_path: Path, batches: list[list[str]]) -> None:
    path = tmp_path / "d"
    path.unlink(missing_ok=True)
    writer, reader = DictionaryWriter(path), DictionaryReader(path)
    order: list[str] = []
    for texts in batches:
        codes = writer.add(texts)
        order += [t for t in dict.fromkeys(texts) if t not in order]
        assert codes == [order.index(t) for t in texts]
        reader.refresh()
        assert reader.texts == order
    assert DictionaryWriter(path).texts == order


def test_half_a_line_of_a_killed_writer_is_not_read_and_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "d"
    DictionaryWriter(path).add(["AAPL"])
    with path.open("ab") as file:
        file.write(b'"MS')
    reader = DictionaryReader(path)
    reader.refresh()
    assert reader.texts == ["AAPL"]
    assert DictionaryWriter(path).add(["MSFT"]) == [1]
    reader.refresh()
    assert reader.texts == ["AAPL", "MSFT"]


def test_a_dictionary_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    reader = DictionaryReader(tmp_path / "d")
    reader.refresh()
    assert reader.texts == []
    DictionaryWriter(tmp_path / "d").add(["A"])
    reader.refresh()
    assert reader.codes == {"A": 0}
