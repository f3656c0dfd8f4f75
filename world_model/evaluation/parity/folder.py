"""A whole folder of golden files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from world_model.core.errors import DataError, IIWorldError
from world_model.evaluation.parity.comparison import Comparison
from world_model.evaluation.parity.golden import GoldenFile
from world_model.evaluation.parity.occworld import verify_occworld
from world_model.evaluation.parity.reference import verify_losses, verify_metrics, verify_pose_ops
from world_model.evaluation.parity.report import Report
from world_model.evaluation.parity.tokenizer import Frames, build, verify_tokenizer
from world_model.evaluation.parity.world import WorldComparison, verify_world

TOKENIZER_WEIGHTS, WORLD_WEIGHTS = "tok_sd.npz", "world_sd.npz"
OCCWORLD = "occworld_"
"""Files of OccWorld, each with its own weights."""
REFERENCES: dict[str, Callable[[Comparison], None]] = {
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
            ``metrics.npz``, ``pose_ops.npz``, ``occworld_*.npz``; what is missing is reported as skipped.
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
    for name in names:
        if name in (TOKENIZER_WEIGHTS, WORLD_WEIGHTS) or not (only is None or name in only):
            continue
        if not name.startswith(("tok_", "world_", OCCWORLD)) and name not in REFERENCES:
            report.skipped[name] = "not a name of the golden layout"
            continue
        progress(name)
        _compare(folder, name, report)
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


def _compare(folder: Path, name: str, report: Report) -> None:
    try:
        check = Comparison(GoldenFile(folder / name), report)
        missing = _verify(folder, check)
    except IIWorldError:
        raise
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
        # Arrays that do not fit each other show up wherever they meet first.
        raise DataError(
            f"{folder / name}: its arrays do not fit each other ({type(error).__name__}: {error})",
            "arrays of the golden layout",
            "copy the folder again",
        ) from error
    if missing:
        report.skipped[name] = missing
    elif rest := check.file.unused():
        keys = ", ".join(rest[:4]) + (", ..." if len(rest) > 4 else "")
        report.skipped[f"{name}: {len(rest)} arrays"] = f"not of the golden layout ({keys})"


def _verify(folder: Path, check: Comparison) -> str | None:
    """Compare one file; returns the reason where it cannot be compared."""
    name = check.file.path.name
    if name in REFERENCES:
        REFERENCES[name](check)
        return None
    if name.startswith(OCCWORLD):
        verify_occworld(check)
        return None
    of_tokenizer = name.startswith("tok_")
    needed = TOKENIZER_WEIGHTS if of_tokenizer else WORLD_WEIGHTS
    if (weights := _weights(folder, needed)) is None:
        return f"needs {needed}"
    if of_tokenizer:
        verify_tokenizer(check, weights)
        return None
    tokens, tokenizer = check.file.optional("latent"), None
    if tokens is None:
        # Forecasts of tokens that the tokenizer's file of the same name ends with.
        partner, codec = folder / name.replace("world_", "tok_", 1), _weights(folder, TOKENIZER_WEIGHTS)
        if not partner.exists() or codec is None:
            return f"has no tokens of its own and needs {partner.name} and {TOKENIZER_WEIGHTS}"
        source = GoldenFile(partner)
        labels = Frames.of(source).labels
        tokens = source.tensor(f"f{len(labels) - 1}.z_q")[:, None]
        tokenizer = build(codec, tuple(labels.shape[2:]), check.dtype)
    verify_world(WorldComparison(check, weights, tokens, tokenizer))
    return None


def _weights(folder: Path, name: str) -> dict[str, Tensor] | None:
    return GoldenFile(folder / name).weights() if (folder / name).exists() else None
