"""What can be read off the package without driving: keywords, docstrings, and who imports whom."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import gymnasium as gym
import pytest
from torch import nn

import ii_world_env
from ii_world_env.env import IIWorldEnv
from ii_world_env.faces.config import EnvConfig
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from ii_world_env.vector_env import IIWorldVectorEnv

ROOT = Path(ii_world_env.__file__).parents[1]
PROMISED = {
    "world": "learned",
    "checkpoint": None,
    "index": None,
    "data_root": None,
    "split": "val",
    "action": "kinematic",
    "observation": "bev",
    "reward": "default",
    "horizon": 16,
    "pessimism": 0.0,
    "device": "auto",
    "dtype": "auto",
    "faithful": None,
}
SECTIONS = (
    "Description",
    "Action Space",
    "Observation Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Arguments",
    "Version History",
)
"""Of Gymnasium's template for environments, in its order."""


def test_keywords_have_the_promised_defaults() -> None:
    config = EnvConfig()
    assert {name: getattr(config, name) for name in PROMISED} == PROMISED
    assert inspect.signature(IIWorldEnv.__init__).parameters["render_mode"].default is None
    batch = inspect.signature(IIWorldVectorEnv.__init__).parameters
    assert batch["autoreset_mode"].default is gym.vector.AutoresetMode.NEXT_STEP and "num_envs" in batch


@pytest.mark.parametrize("cls", [IIWorldEnv, IIWorldVectorEnv, IIWorldVecEnv])
def test_docstrings_follow_gymnasiums_template(cls: type) -> None:
    text = inspect.getdoc(cls) or ""
    places = [text.find(f"## {section}") for section in SECTIONS]
    assert -1 not in places and places == sorted(places)


def test_every_keyword_is_in_the_table_of_arguments() -> None:
    table = (IIWorldEnv.__doc__ or "").split("## Arguments")[1]
    assert [name for name in [*vars(EnvConfig()), "render_mode"] if f"| `{name}`" not in table] == []


def test_environments_of_one_process_share_the_weights() -> None:
    single = gym.make(ii_world_env.ENV_ID, device="cpu").unwrapped
    batch = gym.make_vec(ii_world_env.ENV_ID, num_envs=2, device="cpu").unwrapped
    worlds = [env.engine.world for env in (single, batch)]  # type: ignore[attr-defined]
    ours, theirs = ([part for part in vars(world).values() if isinstance(part, nn.Module)] for world in worlds)
    assert ours and all(a is b for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("layer", "above"),
    [
        ("world_model", {"gymnasium", "stable_baselines3", "ii_world_env", "agents", "examples"}),
        ("ii_world_env", {"agents", "examples"}),
        ("agents", {"examples"}),
    ],
)
def test_layers_point_one_way(layer: str, above: set[str]) -> None:
    found = {str(path.relative_to(ROOT)): imported(path) & above for path in (ROOT / layer).rglob("*.py")}
    assert len(found) > 5 and {path: names for path, names in found.items() if names} == {}


def test_the_engine_knows_no_gymnasium() -> None:
    """Neither do the rooms that it is made of; observations, which have spaces, and the faces around it do."""
    package = ROOT / "ii_world_env"
    files = [path for room in ("ego", "state", "task") for path in (package / room).glob("*.py")]
    files += [package / "engine.py", package / "scenes.py"]
    assert len(files) > 10 and [path for path in files if "gymnasium" in imported(path)] == []


FLOORS = (
    ("ego",),
    ("state",),
    ("task",),
    ("engine",),
    ("observations", "scenes"),
    ("faces",),
    ("env",),
    ("vector_env",),
)
"""Of ii_world_env, from the ground up: a module imports only from its own floor and those below."""


def test_the_rooms_of_the_environment_point_one_way() -> None:
    package = ROOT / "ii_world_env"
    for number, names in enumerate(FLOORS):
        allowed = {f"ii_world_env.{name}" for floor in FLOORS[: number + 1] for name in floor}
        for path in package.rglob("*.py"):
            if path.relative_to(package).with_suffix("").parts[0] in names:
                ours = {".".join(name.split(".")[:2]) for name in modules(path) if name.startswith("ii_world_env.")}
                assert ours <= allowed, path


def modules(path: Path) -> set[str]:
    """Names of the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported(path: Path) -> set[str]:
    """Names of the top-level packages that a file imports, anywhere in it."""
    return {name.split(".")[0] for name in modules(path)}
