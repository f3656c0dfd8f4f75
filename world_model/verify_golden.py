"""Compare this package with the published model, stage by stage: ``python -m world_model.verify_golden FOLDER``."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from world_model.core.command import run
from world_model.core.files import write_text
from world_model.core.runtime import keep_memory
from world_model.evaluation.parity import Report, verify_folder

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class VerifyGolden:
    """Compare with what the published model computes: encoder, aligned memory, every quantizer stage, tokens, logits,
    plan queries, rollouts in both control modes, ego motion, losses with their gradients, metrics and pose arithmetic.

    The folder holds state dicts (tok_sd.npz, world_sd.npz), runs (tok_*.npz, world_*.npz) and reference values
    (losses.npz, metrics.npz, pose_ops.npz); of OccWorld occworld_*.npz, each with its own weights. Sizes are read off
    the arrays, and what is missing is reported as skipped.
    Prints the largest error of every stage beside its tolerance; the exit code is 1 if any lies beyond.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of golden files."""
    dtype: Literal["float64", "float32"] = "float64"
    """Number format to compute in: float64 makes mistakes visible, float32 is what users get."""
    only: tuple[str, ...] = ()
    """Names of files to compare, e.g. tok_mini.npz; all if not given."""
    out: Path | None = None
    """Also write the table (Markdown) to this file."""


def verify_golden(options: VerifyGolden) -> Report:
    """Compare, print the table, and return the report.

    Raises:
        DataError: no folder, nothing in it to compare, or a damaged file.
        OutputError: the table cannot be written.
    """
    begin = time.perf_counter()
    report = verify_folder(
        options.folder,
        DTYPES[options.dtype],
        only=set(options.only) or None,
        progress=lambda name: print(f"comparing {name} ...", file=sys.stderr, flush=True),
    )
    table = report.table()
    print(table)
    if options.out is not None:
        write_text(options.out, table + "\n")
    beyond = [place for place, row in report.rows.items() if not row.ok]
    compared = sum(row.compared for row in report.rows.values())
    took = f"{compared:,} numbers in {len(report.rows)} stages, {options.dtype}, {time.perf_counter() - begin:.0f} s"
    print(f"{took}: {f'{len(beyond)} BEYOND tolerance' if beyond else 'all within tolerance'}")
    for file, stage in beyond:
        print(f"  {file}: {stage}")
    return report


def main() -> None:
    """Command line."""
    keep_memory()
    report = run(VerifyGolden, verify_golden, "python -m world_model.verify_golden")
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
