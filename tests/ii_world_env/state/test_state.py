"""States on disk and in pieces: what does not fit is refused by name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_worlds import TINY
from street import street_clips

from ii_world_env.ego.actions import normal_noise
from ii_world_env.engine import Engine, EngineConfig, State
from ii_world_env.state.saved import load_tree, save_tree
from world_model.core.errors import ConfigError, DataError, OutputError
from world_model.core.tensor_state import put
from world_model.worlds import ReplayWorld, TensorState, TransportWorld


def state(batch: int = 2, horizon: int = 4, action: str = "kinematic", replay: bool = False) -> State:
    world = ReplayWorld(TINY) if replay else TransportWorld(TINY)
    return Engine(world, EngineConfig(horizon=horizon, action=action)).reset(
        street_clips(TINY, speed_mps=2.0, batch=batch, future=horizon)
    )


def rewritten(path: Path, **changes: Any) -> Path:
    """The file with other entries; None removes one."""
    with safe_open(str(path), "pt") as file:
        tensors, meta = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for name, value in changes.items():
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    save_file(tensors, path, meta)
    return path


def test_any_batch_loads_into_any_other(tmp_path: Path) -> None:
    state(3).save(tmp_path / "s")
    assert State.load(tmp_path / "s", like=state(1)).batch == 3


@pytest.mark.parametrize(
    ("like", "match"),
    [
        ({"horizon": 6}, "commands is of shape"),
        ({"action": "delta"}, "last_action"),
        ({"replay": True}, "world.labels"),
    ],
)
def test_the_state_of_another_engine_is_refused(tmp_path: Path, like: dict[str, Any], match: str) -> None:
    state().save(tmp_path / "s")
    with pytest.raises(DataError, match=match):
        State.load(tmp_path / "s", like=state(**like))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pose": None}, "pose is missing"),
        ({"pose": torch.zeros(2, 3, dtype=torch.float64)}, "float64"),
        ({"pose": torch.zeros(5, 3)}, "different sizes"),
        ({"surprise": torch.zeros(2)}, "unknown entries"),
        ({"decoded": torch.full((2, *TINY.shape), 200, dtype=torch.uint8)}, "decoded"),
        ({"pose": torch.full((2, 3), torch.nan)}, "pose"),
        ({"steps": torch.tensor([-1, 0])}, "steps"),
        ({"cause": torch.tensor([0, 99])}, "cause"),
    ],
)
def test_changed_files_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    state().save(tmp_path / "s")
    with pytest.raises(DataError, match=match):
        State.load(rewritten(tmp_path / "s", **changes), like=state())


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    state().save(tmp_path / "s")
    whole = (tmp_path / "s").read_bytes()
    for content in (b"", whole[:100], whole[:-10], b"\x80\x04." + whole):
        (tmp_path / "s").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            State.load(tmp_path / "s", like=state())
    with pytest.raises(DataError, match="cannot be read"):
        State.load(tmp_path / "nothing", like=state())
    save_file({"pose": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(DataError, match="format"):
        State.load(tmp_path / "other", like=state())
    save_file(
        {"pose": torch.zeros(1)}, tmp_path / "other", {"format": "ii_world_env.State/2", "plain": json.dumps([1])}
    )
    with pytest.raises(DataError, match="cannot be read"):
        State.load(tmp_path / "other", like=state())


def test_saving_is_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        state().save(tmp_path / "file" / "s")
    with pytest.raises(ConfigError, match="generator"):
        replace(state(), world=(n for n in range(2))).save(tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@dataclass(frozen=True, kw_only=True)
class Mixed(TensorState):
    """A user's own world state of everything that is allowed."""

    tensor: torch.Tensor
    array: np.ndarray
    names: tuple[str, ...]
    nothing: None = None


def test_put_takes_whatever_a_world_may_keep() -> None:
    old = Mixed(tensor=torch.zeros(3, 2), array=np.zeros((3, 2)), names=("a", "b", "c"))
    new = Mixed(tensor=torch.ones(1, 2), array=np.ones((1, 2)), names=("d",))
    mixed = put(old, [1], new)
    assert mixed.tensor.tolist() == mixed.array.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert mixed.names == ("a", "d", "c") and mixed.nothing is None
    assert not old.tensor.any() and not old.array.any(), "the old one stays as it was"
    with pytest.raises(ConfigError, match=r"put\(rows, new\)"):
        put({1, 2}, [0], {3})


def test_noise_is_normal_and_belongs_to_seed_and_step() -> None:
    seed, step = torch.arange(2000), torch.full((2000,), 3)
    drawn = normal_noise(seed, step, 4)
    assert abs(float(drawn.mean())) < 0.05 and abs(float(drawn.std()) - 1) < 0.03
    assert float(torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max()) < 0.1
    assert abs(float((drawn[1:] * drawn[:-1]).mean())) < 0.05, "neighbouring seeds"
    assert abs(float((drawn * normal_noise(seed, step + 1, 4)).mean())) < 0.05, "neighbouring steps"
    assert torch.equal(normal_noise(seed[7:8], step[:1], 4)[0], drawn[7])
    assert float(drawn.abs().max()) < 6 and torch.isfinite(normal_noise(torch.tensor([-1, 2**62]), step[:2], 9)).all()


def test_a_renamed_field_keeps_its_name_in_files(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Part:
        now: torch.Tensor = field(metadata={"stored": "before"})

    part = Part(torch.arange(3))
    save_tree(tmp_path / "part", part)
    with safe_open(str(tmp_path / "part"), "pt") as file:
        assert list(file.keys()) == ["before"]
    assert (load_tree(tmp_path / "part", Part(torch.zeros(1, dtype=torch.int64))).now == part.now).all()


def test_a_field_that_older_files_lack_is_made_by_its_rule(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Old:
        now: torch.Tensor

    @dataclass(frozen=True)
    class New(Old):
        later: torch.Tensor = field(metadata={"absent": lambda like, rows: torch.full((rows,), 7.0)})

    save_tree(tmp_path / "old", Old(torch.arange(3)))
    found = load_tree(tmp_path / "old", New(torch.zeros(1, dtype=torch.int64), torch.zeros(1)))
    assert found.now.tolist() == [0, 1, 2] and found.later.tolist() == [7.0] * 3
    save_tree(tmp_path / "new", found)
    assert load_tree(tmp_path / "new", found).later.tolist() == [7.0] * 3
