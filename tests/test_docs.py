"""The documentation is true: its Python runs, its command lines parse, and what it names exists.

A block that needs real data or long training stands below a comment ``<!-- not run: REASON -->``; it must compile, and
its imports must work. A block with ``title="NAME.py"`` is written to that file, for the blocks after it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import tyro
from markdown import ROOT, Block, blocks, command_lines, pages

BLOCKS = [block for page in pages() for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh"]
EXTRAS = ("minari", "d3rlpy")
HORIZON = 3
"""Steps of an episode, so that a page runs in seconds."""


class Parsed(Exception):
    """A command has read its options; nothing else of it runs."""


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}))
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = gym.make

    def make_short(*args: Any, **kwargs: Any) -> gym.Env[Any, Any]:
        return make(*args, **{"horizon": HORIZON, **kwargs})

    monkeypatch.setattr(gym, "make", make_short)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    namespace: dict[str, Any] = {"__name__": "__page__"}
    try:
        for block in PYTHON:
            if block.page == page and block.file:
                (tmp_path / block.file).write_text(block.text, encoding="utf-8")
            elif block.page == page and not block.not_run:
                exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), namespace)
    finally:
        written = {block.file.removesuffix(".py") for block in PYTHON if block.file}
        for name in written & (set(sys.modules) - modules):
            del sys.modules[name]


@pytest.mark.parametrize("block", [block for block in PYTHON if block.not_run], ids=str)
def test_other_python_blocks_compile_and_their_imports_work(block: Block) -> None:
    absent = [name for name in EXTRAS if f"import {name}" in block.text and importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed")
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def refuse(words: tuple[str, ...], said: object) -> None:
    pytest.fail(f"{' '.join(words)}\n{said}")


@cache
def parse(words: tuple[str, ...]) -> None:
    """Give a command its options and stop it there; options with ``...`` among them are only looked up in its help."""
    target, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    shortened = "..." in arguments
    seen: list[str] = []
    real = tyro.cli

    def cli(f: Any, **kwargs: Any) -> Any:
        if shortened:
            with contextlib.redirect_stdout(io.StringIO()) as help_text, contextlib.suppress(SystemExit):
                real(f, args=["--help"])
            seen.append(help_text.getvalue())
        else:
            real(f, args=list(arguments), **{k: v for k, v in kwargs.items() if k != "args"})
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tyro, "cli", cli)
        patch.setattr(sys, "argv", [target])
        try:
            if words[1] == "-m":
                patch.delitem(sys.modules, target, raising=False)
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(ROOT / target), run_name="__main__")
        except Parsed:
            pass
        except SystemExit as error:
            refuse(words, error)
    if shortened:
        unknown = [word for word in arguments if word.startswith("--") and word not in seen[0]]
        assert not unknown, f"{' '.join(words)}: unknown {unknown}"


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_command_lines_parse(block: Block) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in command_lines(block):
        if words[0] == "make":
            assert all(word in targets for word in words[1:] if "=" not in word), words
        elif words[0] == "python" and not {"-c", "pytest", "pip", "venv", "build"} & set(words[1:3]):
            parse(tuple(words))


def test_commands_inside_lines_exist() -> None:
    """`python -m package.module` between backticks names a module that can be run."""
    for page in pages():
        for target in re.findall(r"python -m ([a-z_]+(?:\.[a-z_]+)+)", page.read_text(encoding="utf-8")):
            path = ROOT.joinpath(*target.split("."))
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{page.name}: {target}"


def test_paths_exist() -> None:
    """Files of the repository that a page names between backticks."""
    rooms = "world_model|ii_world_env|agents|examples|benchmarks|tests|docs"
    missing = [
        f"{page.relative_to(ROOT)}: {named}"
        for page in pages()
        for named in re.findall(rf"`((?:{rooms})/[\w./-]*)`", page.read_text(encoding="utf-8"))
        if not (ROOT / named).exists()
    ]
    assert missing == []


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


def test_names_exist() -> None:
    """Dotted names of the packages between backticks: modules, and what is in them."""
    missing = [
        f"{page.relative_to(ROOT)}: {named}"
        for page in pages()
        for named in re.findall(
            r"`((?:world_model|ii_world_env|agents)(?:\.\w+)+)(?:\(.*?\))?`", page.read_text("utf-8")
        )
        if not exists(named)
    ]
    assert missing == []


def test_the_reference_names_what_exists_and_every_command() -> None:
    named = [
        name
        for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert [name for name in named if not exists(name)] == []
    commands = {f"world_model.{path.stem}" for path in (ROOT / "world_model").glob("*.py")} - {"world_model.__init__"}
    assert commands <= set(named)


def test_links_between_pages_lead_to_files() -> None:
    for page in pages():
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"
