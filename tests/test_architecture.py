"""The order of the house: no circle of imports, no import upwards, no crowded folder, no long file.

Every import counts: also one inside a function, and one for type checking only.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

# From the ground up. A name is a folder or a file; names on one floor may import each other.
# "*" stands for everything that is not listed: the commands, and a package's own __init__.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "": (("world_model",), ("ii_world_env",), ("agents",), ("examples",)),
    "world_model": (
        *(("core",), ("data",), ("pictures",), ("training",), ("models",), ("checkpoints",), ("simulator",)),
        *(("worlds",), ("trust",), ("rollouts",), ("generation",), ("evaluation",), ("*",)),
    ),
    "world_model.simulator": (
        *(("state", "polylines"), ("town",), ("traffic",), ("sensing",), ("simulator",), ("dataset",)),
        ("*",),
    ),
    "ii_world_env": (
        *(("ego", "state", "task", "observations"), ("engine",), ("scenes", "faces")),
        ("*",),  # env, vector_env, sb3_vec_env, bench, view, doctor
    ),
}
MOST_FILES = 14
"""In one folder, beside its __init__.py and its commands, which are one thin file each."""
COMMAND = 'if __name__ == "__main__":'
MOST_LINES = 400
ROOT = Path(__file__).parent.parent
PACKAGES = tuple(name for floor in FLOORS[""] for name in floor)


@lru_cache(maxsize=1)
def modules() -> dict[str, Path]:
    """All modules by dotted name; a package's name means its __init__."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@lru_cache(maxsize=1)
def imports() -> dict[str, list[str]]:
    """The modules of this project that each module imports."""
    return {name: sorted(set(imported(name, file)) - {name}) for name, file in modules().items()}


def imported(name: str, file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            here = name if file.name == "__init__.py" else name.rpartition(".")[0]
            base = ".".join(
                [*here.split(".")[: len(here.split(".")) - node.level + 1], *(node.module or "").split(".")]
            )
            source = (base if node.level else node.module or "").rstrip(".")
            for alias in node.names:
                found = f"{source}.{alias.name}" if f"{source}.{alias.name}" in modules() else source
                if found in modules():
                    yield found


def floor_of(module: str, house: str) -> int | None:
    """Number of a module's floor in a house (a key of FLOORS); None outside."""
    if house and module != house and not module.startswith(f"{house}."):
        return None
    room = module.removeprefix(house).removeprefix(".").split(".")[0]
    floors = FLOORS[house]
    return next((k for k, names in enumerate(floors) if room in names), len(floors) - 1)


def upward_imports() -> Iterator[str]:
    for name, targets in imports().items():
        for target in targets:
            for house in FLOORS:
                here, there = floor_of(name, house), floor_of(target, house)
                if here is not None and there is not None and here < there:
                    yield f"{name} -> {target}"


def circles() -> Iterator[str]:
    """Groups of modules that reach each other."""
    reached: dict[str, set[str]] = {}
    for start in imports():
        reached[start], stack = set(), list(imports()[start])
        while stack:
            name = stack.pop()
            if name not in reached[start]:
                reached[start].add(name)
                stack += imports()[name]
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in reached if a in reached[a]}
    yield from ("circle: " + ", ".join(sorted(group)) for group in groups)


def crowded_folders() -> Iterator[str]:
    counted = (file for file in modules().values() if file.name != "__init__.py" and COMMAND not in file.read_text())
    for folder, count in Counter(file.parent for file in counted).items():
        if count > MOST_FILES:
            yield f"folder: {folder.relative_to(ROOT).as_posix()} ({count} files)"


def long_files() -> Iterator[str]:
    for file in modules().values():
        if (lines := len(file.read_text().splitlines())) > MOST_LINES:
            yield f"file: {file.relative_to(ROOT).as_posix()} ({lines} lines)"


@pytest.mark.parametrize("search", [upward_imports, circles, crowded_folders, long_files])
def test_the_house_is_in_order(search: Callable[[], Iterator[str]]) -> None:
    assert not sorted(search())


def test_every_floor_exists() -> None:
    for house, floors in FLOORS.items():
        for room in (room for names in floors for room in names if room != "*"):
            path = ROOT / Path(*house.split("."), room) if house else ROOT / room
            assert path.is_dir() or path.with_suffix(".py").exists(), f"{house}: {room}"


def test_the_search_finds_imports_of_every_kind(tmp_path: Path) -> None:
    file = tmp_path / "probe.py"
    file.write_text(
        "from world_model.core import grid\nfrom .core.errors import DataError\nimport numpy\n"
        "def f():\n    import world_model.data.index\n    from . import worlds\n"
    )
    names = {"core.grid", "core.errors", "data.index", "worlds"}
    assert set(imported("world_model.probe", file)) == {f"world_model.{n}" for n in names}
    assert floor_of("world_model.core.grid", "world_model") == 0
    assert floor_of("agents.train", "world_model") is None
    assert floor_of("world_model.evaluate", "world_model") == len(FLOORS["world_model"]) - 1
