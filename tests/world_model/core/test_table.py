"""The writer of tables: both layouts, numbers that are not there, and values that JSON does not know."""

from __future__ import annotations

import json
import math
from pathlib import Path

from world_model.core.table import Table, bullets, decimal, json_values, percent, write_report


def test_compact_tables_leave_empty_cells_empty() -> None:
    table = Table(["planner", "steps", ""], [["idm", "16", "ok"], ["ppo", "", ""]])
    assert table.markdown().splitlines() == [
        "| planner | steps | |",
        "|---|---|---|",
        "| idm | 16 | ok |",
        "| ppo | | |",
    ]


def test_aligned_tables_line_up() -> None:
    lines = Table(["a", "long name"], [["wide cell", "1"], ["b", "22"]], aligned=True).markdown().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0] == "| a         | long name |" and lines[1] == "| --------- | --------- |"


def test_what_is_not_known_is_a_dash() -> None:
    assert (percent(0.12345), percent(0.5, 1), percent(math.nan)) == ("12.35", "50.0", "-")
    assert (decimal(1.0), decimal(None), decimal(math.inf, 1)) == ("1.00", "-", "inf")
    assert bullets({"data": "x", "seed": 0}) == "- data: x\n- seed: 0"


def test_values_survive_json(tmp_path: Path) -> None:
    values = {"a": [1.5, math.nan], "b": {"c": -math.inf, "d": 3, "e": "nan"}}
    written = write_report(tmp_path, "found", json_values(values), "# found\n")
    assert [path.name for path in written] == ["found.json", "found.md"]
    assert json.loads(written[0].read_text()) == {"a": [1.5, None], "b": {"c": None, "d": 3, "e": "nan"}}
