"""Code blocks of Markdown pages, as the tests of the documentation read them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_MARK = re.compile(r"<!-- not run: (?P<reason>.+?) -->")
_SKIPPED_WORDS = ("srun", "NO_MKDOCS_2_WARNING=1")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block.

    Attributes:
        page: path relative to the repository.
        line: number of its first line of content.
        language: first word after the fence.
        file: `title="..."` after the language: the name under which readers save it, or "".
        text: content, without the indentation of the fence.
        not_run: why it is not run, from a comment on the line before, or "".
    """

    page: str
    line: int
    language: str
    file: str
    text: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page that users read."""
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*named, ROOT / "world_model" / "assets" / "nano" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Fenced blocks of a page in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        if opened is None:
            number += 1
            continue
        indent, info = opened["indent"], opened["info"].strip()
        end = next(i for i in range(number + 1, len(lines)) if lines[i].strip() == "```")
        before = next((line for line in reversed(lines[:number]) if line.strip()), "")
        mark, title = _MARK.search(before), re.search(r'title="([^"]+)"', info)
        found.append(
            Block(
                page=page.relative_to(ROOT).as_posix(),
                line=number + 2,
                language=info.split()[0] if info else "",
                file=title[1] if title else "",
                text="\n".join(line.removeprefix(indent) for line in lines[number + 1 : end]) + "\n",
                not_run=mark["reason"] if mark else "",
            )
        )
        number = end + 1
    return found


def command_lines(block: Block) -> list[list[str]]:
    """Commands of a shell block as words: comments, variables and launchers such as torchrun are taken off."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        words = shlex.split(line, comments=True)
        while words and ("=" in words[0] or words[0] in _SKIPPED_WORDS):
            words = words[1:]
        if words and words[0] == "torchrun":
            words = ["python", *words[words.index("-m") :]]
        if words:
            found.append(words)
    return found
