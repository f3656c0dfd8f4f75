"""What "learned" means: the better of the worlds that a checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_checkpoints import write_geometric, write_tokens

from world_model.core.errors import CheckpointError, OptionError
from world_model.evaluation.fidelity.candidates import load_candidates
from world_model.generate import Generate
from world_model.worlds import build_world, resolve_world
from world_model.worlds.ensemble import EnsembleWorld
from world_model.worlds.geometric import GeometricWorld
from world_model.worlds.kinds import holds
from world_model.worlds.token import TokenWorld


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_geometric(tmp_path_factory.mktemp("moved"))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_geometric(write_tokens(tmp_path_factory.mktemp("both")))


def test_learned_is_what_the_checkpoint_holds(tokens: Path, moved: Path, both: Path) -> None:
    for checkpoint, name, kind in (
        (tokens, "ii-world", TokenWorld),
        (moved, "geometric", GeometricWorld),
        (both, "geometric", GeometricWorld),
        (None, "geometric", GeometricWorld),
        (moved / "geometric.safetensors", "geometric", GeometricWorld),
    ):
        assert resolve_world("learned", checkpoint) == name
        assert type(build_world("learned", checkpoint=checkpoint, device="cpu")) is kind
    assert type(build_world("ii-world", checkpoint=both, device="cpu")) is TokenWorld
    assert type(build_world("geometric", checkpoint=both, device="cpu")) is GeometricWorld
    assert type(build_world("ii-world", device="cpu")) is TokenWorld


def test_other_names_stay_as_they_are(tokens: Path) -> None:
    for name in ("geometric", "ii-world", "transport", "package.module:Class"):
        assert resolve_world(name, tokens) == name
    assert resolve_world("replay", "no/such/folder") == "replay"


def test_an_ensemble_is_resolved_member_by_member(tokens: Path, moved: Path, both: Path) -> None:
    assert resolve_world("learned", [str(moved), str(both)]) == "geometric"
    assert resolve_world("learned", f"{moved},{tokens}") == "geometric+ii-world"
    world = build_world("learned", checkpoint=[str(moved), str(tokens)], device="cpu")
    assert isinstance(world, EnsembleWorld)
    assert [type(member) for member in world.members] == [GeometricWorld, TokenWorld]


def test_a_checkpoint_without_a_world_is_named(tmp_path: Path, tokens: Path, moved: Path) -> None:
    (tmp_path / "tokenizer.safetensors").touch()  # half of the token architecture
    with pytest.raises(CheckpointError, match=r"(?s)holds no learned world.*geometric\.safetensors"):
        build_world("learned", checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        resolve_world("learned", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint at.*holds geometric\.safetensors"):
        build_world("geometric", checkpoint=tokens)
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint at.*holds tokenizer\.safetensors and"):
        build_world("ii-world", checkpoint=moved)


def test_what_a_folder_holds(tokens: Path, both: Path, tmp_path: Path) -> None:
    assert holds(tokens, "ii-world") and not holds(tokens, "geometric") and holds(tokens, "learned")
    assert holds(both, "geometric") and not holds(tmp_path, "learned")
    assert holds(tmp_path, "module:Class") and not holds(tmp_path / "nowhere", "module:Class")


def test_precision_of_each_kind(moved: Path, tokens: Path) -> None:
    half = build_world("learned", checkpoint=moved, dtype="bfloat16", device="cpu").model  # type: ignore[attr-defined]
    own = build_world("learned", checkpoint=moved, device="cpu").model  # type: ignore[attr-defined]
    assert half.fusion.body.fine.weight.dtype == torch.bfloat16 and half.fusion.scores.weight.dtype == torch.float32
    assert {weight.dtype for weight in own.parameters()} == {torch.float32}
    maps = torch.randn(1, half.config.width, 8, 8)
    rounded, exact = half.fusion.body(maps), own.fusion.body(maps)
    away = (rounded - exact).norm() / exact.norm()
    assert rounded.dtype == torch.float32 and 0 < away < 0.05
    with pytest.raises(OptionError, match="dtype="):
        build_world("learned", checkpoint=tokens, dtype="float64", device="cpu")


def test_fidelity_names_worlds_by_what_they_are(tokens: Path, moved: Path, both: Path) -> None:
    worlds = load_candidates(("learned", "ii-world"), (moved, tokens), "cpu")
    assert [(e.name, e.checkpoint) for e in worlds] == [("geometric", str(moved)), ("ii-world", str(tokens))]
    one, two = load_candidates((f"learned={both}", "learned"), (tokens,), "cpu")
    assert (one.name, two.name) == (f"geometric ({both.name})", "ii-world") and one.fingerprint != two.fingerprint
    with pytest.raises(OptionError, match="different names"):
        load_candidates(("learned", "geometric"), (both,), "cpu")
    with pytest.raises(OptionError, match="which no world takes"):
        load_candidates(("ii-world",), (tokens, moved), "cpu")


def test_only_one_world_can_drive_by_command(both: Path, moved: Path) -> None:
    assert Generate(checkpoint=both).world_name == "geometric"
    assert Generate(checkpoint=both, control="left").world_name == "ii-world"
    assert Generate(checkpoint=both, world="geometric", control="left").world_name == "geometric"  # refused later
    assert Generate(checkpoint=moved, control="logged").world_name == "geometric"
