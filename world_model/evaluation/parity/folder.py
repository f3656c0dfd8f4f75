"""A whole folder of golden files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from world_model.core.errors import DataError, IIWorldError
from world_model.evaluation.parity.golden import GoldenFile
from world_model.evaluation.parity.measure import Report
from world_model.evaluation.parity.reference import verify_losses, verify_metrics, verify_pose_ops
from world_model.evaluation.parity.tokenizer import Drive, build, verify_tokenizer
from world_model.evaluation.parity.world import WorldFile, verify_world

TOKENIZER_WEIGHTS, WORLD_WEIGHTS = "tok_sd.npz", "world_sd.npz"
REFERENCES: dict[str, Callable[[GoldenFile, Report], None]] = {
    "losses.npz": verify_losses,
    "metrics.npz": verify_metrics,
    "pose_ops.npz": verify_pose_ops,
}


def verify_folder(
    folder: Path,
    dtype: torch.dtype = torch.float64,
    *,
    only: set[str] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Report:
    """Compare every golden file of a folder.

    Args:
        folder: with ``tok_sd.npz`` and ``tok_*.npz``, ``world_sd.npz`` and ``world_*.npz``, ``losses.npz``,
            ``metrics.npz``, ``pose_ops.npz``; what is missing is reported as skipped.
        dtype: number format to compute in, float64 or float32.
        only: names of the files to compare; None: all.
        progress: called with the name of every file before it is compared.

    Raises:
        DataError: no folder, nothing in it to compare, or a damaged file.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}", "a folder of golden files", "give the folder that holds tok_sd.npz")
    report = Report(dtype=dtype)
    names = sorted(path.name for path in folder.glob("*.npz"))
    runs = [n for n in names if n not in (TOKENIZER_WEIGHTS, WORLD_WEIGHTS) and (only is None or n in only)]
    for name in runs:
        kind = _kind(name)
        if kind is None:
            report.skipped[name] = "not a name of the golden layout"
            continue
        progress(name)
        _compare(kind, folder, name, report)
    for name in (TOKENIZER_WEIGHTS, WORLD_WEIGHTS, *REFERENCES):
        if name not in names and only is None:
            report.skipped.setdefault(name, "no such file")
    if not report.rows:
        raise DataError(
            f"nothing in {folder} could be compared",
            f"{TOKENIZER_WEIGHTS}, tok_*.npz, losses.npz ...",
            "see the README",
        )
    return report


def _compare(kind: Callable[[Path, GoldenFile, Report], None], folder: Path, name: str, report: Report) -> None:
    try:
        kind(folder, GoldenFile(folder / name), report)
    except IIWorldError:
        raise
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
        # Arrays that do not fit each other show up wherever they meet first.
        raise DataError(
            f"{folder / name}: its arrays do not fit each other ({type(error).__name__}: {error})",
            "arrays of the golden layout",
            "copy the folder again",
        ) from error


def _kind(name: str) -> Callable[[Path, GoldenFile, Report], None] | None:
    if name.startswith("tok_"):
        return _tokenizer
    if name.startswith("world_"):
        return _world
    if name in REFERENCES:
        return lambda folder, file, report: _finish(file, report, REFERENCES[name](file, report))
    return None


def _finish(file: GoldenFile, report: Report, _: None = None) -> None:
    """Say which arrays nothing was compared with."""
    if rest := file.unused():
        names = ", ".join(rest[:4]) + (", ..." if len(rest) > 4 else "")
        report.skipped[f"{file.path.name}: {len(rest)} arrays"] = f"not of the golden layout ({names})"


def _weights(folder: Path, name: str) -> dict[str, Tensor] | None:
    return GoldenFile(folder / name).weights() if (folder / name).exists() else None


def _tokenizer(folder: Path, file: GoldenFile, report: Report) -> None:
    if (weights := _weights(folder, TOKENIZER_WEIGHTS)) is None:
        report.skipped[file.path.name] = f"needs {TOKENIZER_WEIGHTS}"
        return
    verify_tokenizer(file, weights, report)
    _finish(file, report)


def _world(folder: Path, file: GoldenFile, report: Report) -> None:
    if (weights := _weights(folder, WORLD_WEIGHTS)) is None:
        report.skipped[file.path.name] = f"needs {WORLD_WEIGHTS}"
        return
    tokens, tokenizer = file.optional("latent"), None
    if tokens is None:
        # Forecasts of tokens that the tokenizer's file of the same name ends with.
        partner, codec = folder / file.path.name.replace("world_", "tok_", 1), _weights(folder, TOKENIZER_WEIGHTS)
        if not partner.exists() or codec is None:
            report.skipped[file.path.name] = (
                f"has no tokens of its own and needs {partner.name} and {TOKENIZER_WEIGHTS}"
            )
            return
        source = GoldenFile(partner)
        labels = Drive.of(source).labels
        tokens = source.tensor(f"f{len(labels) - 1}.z_q")[:, None]
        tokenizer = build(codec, tuple(labels.shape[2:]), report.dtype)
    verify_world(WorldFile(file, weights, tokens, report, tokenizer))
    _finish(file, report)
