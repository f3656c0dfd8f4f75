"""One word per thing: words that the vocabulary of CONTRIBUTING.md has replaced stay away."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACES = ("world_model", "ii_world_env", "agents", "examples", "benchmarks", "docs", "README.md")
REPLACED = re.compile(r"\b([Nn]obody|[Ss]omebody|at hand|Contest|Ranks|[Ff]resh)\b")


def test_replaced_words_stay_away() -> None:
    files = [file for place in PLACES for file in (ROOT / place, *(ROOT / place).rglob("*"))]
    texts = {file: file.read_text() for file in files if file.is_file() and file.suffix in (".py", ".md")}
    found = [f"{file.relative_to(ROOT)}: {word}" for file, text in texts.items() for word in REPLACED.findall(text)]
    assert texts and not found
