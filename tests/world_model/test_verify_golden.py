"""The command: other sizes, mistakes found, files that are missing, foreign or damaged."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_folder import alter, write_folder

from world_model import verify_golden
from world_model.evaluation.parity import verify_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "golden")


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> object:
    monkeypatch.setattr(sys, "argv", ["verify_golden", str(folder), *options])
    with pytest.raises(SystemExit) as ended:
        verify_golden.main()
    return ended.value.code


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_folder_of_other_sizes_agrees_with_itself(
    folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, monkeypatch, "--dtype", dtype, "--out", str(folder / "table.md")) == 0
    said = capsys.readouterr().out
    assert "all within tolerance" in said and "| tok_other.npz | quantizer 4: codes |" in said
    assert "losses.npz | skipped: no such file" in said
    assert (folder / "table.md").read_text() in said


@pytest.mark.parametrize(
    ("file", "key", "stage"),
    [
        ("tok_other.npz", "f0.latent", "encoder output"),
        ("tok_other.npz", "f1.z_q", "token"),
        ("tok_other.npz", "f1.idx3", "quantizer 3: codes"),
        ("world_other.npz", "s0.generate.pred_latent", "generate: forecast tokens"),
    ],
)
def test_a_wrong_number_is_found(
    folder: Path, file: str, key: str, stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alter(folder / file, key, 1 if "idx" in key else 1e-4)
    assert run(folder, monkeypatch) == 1
    said = capsys.readouterr().out.splitlines()
    assert any(f"| {file} | {stage} |" in line for line in said if "BEYOND |" in line)
    assert f"  {file}: {stage}" in said  # named once more at the end


def test_not_a_number_is_beyond_any_tolerance(folder: Path) -> None:
    alter(folder / "tok_other.npz", "f0.latent", float("nan"))
    assert not verify_folder(folder).ok


def test_wrong_weights_are_found(folder: Path) -> None:
    alter(folder / "world_sd.npz", "pose_encoder.plan_encoder.bias", 1e-3)
    assert verify_folder(folder, only={"tok_other.npz"}).ok
    assert verify_folder(folder).ok  # in this mode tokens do not depend on the motion memory
    alter(folder / "world_sd.npz", "transformer.u_net.recover_convs.0.bias", 1e-3)
    assert not verify_folder(folder).ok


def test_what_cannot_be_compared_is_said(folder: Path) -> None:
    (folder / "world_sd.npz").unlink()
    np.savez(folder / "notes.npz", x=np.zeros(3))
    arrays = dict(np.load(folder / "tok_other.npz"))
    np.savez(folder / "tok_other.npz", novelty=np.zeros(2), **arrays)
    report = verify_folder(folder)
    assert report.ok
    assert report.skipped["world_other.npz"] == "needs world_sd.npz"
    assert "not a name" in report.skipped["notes.npz"]
    assert "novelty" in report.skipped["tok_other.npz: 1 arrays"]


def test_damaged_files_are_errors(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / "tok_other.npz").read_bytes()
    for part in (b"", whole[:100], whole[: len(whole) // 2], b"x" * 500):
        (folder / "tok_other.npz").write_bytes(part)
        said = run(folder, monkeypatch)
        assert isinstance(said, str) and "tok_other.npz cannot be read" in said and "Remedy" in said


def test_arrays_that_contradict_each_other_are_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = dict(np.load(folder / "tok_other.npz"))
    short = {**arrays, "curr_to_prev": arrays["curr_to_prev"][:1]}
    np.savez(folder / "tok_other.npz", **short)
    assert "curr_to_prev of shape (1, 2, 4, 4)" in str(run(folder, monkeypatch))
    np.savez(folder / "tok_other.npz", **arrays)
    weights = dict(np.load(folder / "tok_sd.npz"))
    del weights["vq.quant_conv.bias"]
    np.savez(folder / "tok_sd.npz", **weights)
    assert "vq.quant_conv.bias" in str(run(folder, monkeypatch))


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.mark,))  # type: ignore[return-value]


def test_nothing_in_a_file_is_executed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "executed"
    np.savez(folder / "losses.npz", cls_targ=np.array([_Hostile(mark)], dtype=object))
    assert "losses.npz cannot be read" in str(run(folder, monkeypatch))
    assert not mark.exists()


def test_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no folder" in str(run(tmp_path / "nowhere", monkeypatch))
    assert "nothing in" in str(run(tmp_path, monkeypatch))


def test_a_tie_must_be_proven(folder: Path) -> None:
    """Two equal code vectors are a tie; any other code in their place is not."""
    weights, arrays = dict(np.load(folder / "tok_sd.npz")), dict(np.load(folder / "tok_other.npz"))
    used = int(arrays["f0.idx1"][0])
    spare = next(i for i in range(59, used, -1) if not any((arrays[k] == i).any() for k in arrays if ".idx" in k))
    weights["vq.embedding.weight"][spare] = weights["vq.embedding.weight"][used]
    np.savez(folder / "tok_sd.npz", **weights)
    arrays["f0.idx1"][0] = spare
    np.savez(folder / "tok_other.npz", **arrays)
    row = verify_folder(folder, torch.float64).rows["tok_other.npz", "quantizer 1: codes"]
    assert row.ok and row.ties == 1
