"""Tables are read row by row: in any layout, through any piece of the file, and never past damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from world_model.core.errors import DataError
from world_model.data.formats import tables
from world_model.data.formats.tables import iterate_table, read_by_token, read_table

ROWS = [{"token": f"t{i}", "name": 'a "quoted" }, { [name]' + "é" * i, "other": {"nested": [1, {}]}} for i in range(40)]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_any_layout_in_any_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, chunk: int
) -> None:
    monkeypatch.setattr(tables, "CHUNK", chunk)
    (tmp_path / "category.json").write_text(json.dumps(ROWS, indent=indent, ensure_ascii=False), encoding="utf-8")
    found = list(iterate_table(tmp_path, "category"))
    assert found == [{"token": row["token"], "name": row["name"]} for row in ROWS]
    assert read_by_token(tmp_path, "category", lambda row: row["token"] == "t3") == {"t3": found[3]}
    assert read_table(tmp_path, "category") == found


def test_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "category.json").write_text(" [\n] ")
    assert read_table(tmp_path, "category") == []


def test_truncated_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHUNK", 50)
    whole = json.dumps(ROWS[:5])
    for length in range(len(whole) - 1):
        (tmp_path / "category.json").write_text(whole[:length])
        with pytest.raises(DataError, match=r"category\.json"):
            read_table(tmp_path, "category")


def test_a_row_without_end_is_not_read_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHUNK", 100)
    monkeypatch.setattr(tables, "LONGEST_ROW", 1000)
    (tmp_path / "category.json").write_text('[{"token": "' + "x" * 100_000 + '", "name": "n"}]')
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path, "category")


@pytest.mark.parametrize("text", ["", "{}", "7", "[7]", '[{"token": 1}]', "[[1]]", "\xff\xfe"])
def test_other_things(tmp_path: Path, text: str) -> None:
    (tmp_path / "category.json").write_bytes(text.encode("latin1"))
    with pytest.raises(DataError, match=r"category\.json"):
        read_table(tmp_path, "category")
