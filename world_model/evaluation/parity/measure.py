"""What a comparison found: the largest error of every stage, beside what it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.evaluation.parity.golden import GoldenFile


@dataclass(frozen=True)
class Tolerance:
    """How far numbers of one kind may be off.

    Attributes:
        double: largest absolute error where this package computes in float64.
        single: the same for float32.
        size: the largest value for which these hold; the tolerance grows in proportion beyond it.
    """

    double: float
    single: float
    size: float

    def of(self, dtype: torch.dtype, largest: float) -> float:
        """Largest absolute error for an array whose largest value has the size ``largest``."""
        base = (self.double if dtype == torch.float64 else self.single) * max(1.0, largest / self.size)
        return max(base, 1.01 * STORAGE * largest)


STORAGE = 2.0**-24
"""Reference values are stored as float32: largest rounding relative to the value."""
TOLERANCE: dict[str, Tolerance] = {
    # Computed in float64 by the published model. In float64: what its README tabulates, for values of the sizes it has.
    # In float32: what it advises for strict tests. Its own float32 errors (1e-5 to 2.6e-5) are those of one processor;
    # kernels without AVX-512 sum in another order and are up to 2.5 times as far off.
    "latent": Tolerance(2.4e-7, 5.0e-5, 5.7),
    "history": Tolerance(2.2e-7, 5.0e-5, 5.4),
    "token": Tolerance(5.0e-7, 5.0e-5, 11.4),
    "forecast": Tolerance(2.4e-7, 5.0e-5, 5.9),
    "pose": Tolerance(3.8e-6, 5.0e-5, 129.0),
    # Transforms between stored poses, whose coordinates of some 100 m are rounded to float32.
    "input": Tolerance(2.0e-5, 2.0e-5, 1.0),
    # Not in that table: activations inside the networks (up to 42), squared distances, gradients of the forecaster.
    "layer": Tolerance(2.0e-6, 1.0e-4, 42.0),
    "margin": Tolerance(5.0e-7, 2.0e-4, 13.3),
    # In float32 the order of summation, and so the number of threads, shows in gradients: 2e-5 with one, 2e-4 with two.
    "gradient": Tolerance(2.4e-7, 5.0e-4, 1.0),
    "gradient norm": Tolerance(1.0e-6, 5.0e-3, 1.0),
    # Computed in float32 by the published model, so the references themselves are off by single precision.
    "single": Tolerance(1.0e-6, 2.0e-6, 1.0),
    "single gradient": Tolerance(5.0e-5, 5.0e-5, 1.0),
    "single gradient norm": Tolerance(1.0e-4, 1.0e-4, 1.0),
}
"""Tolerances by kind of number."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The worst comparison of one stage in one file.

    Attributes:
        file: the golden file.
        stage: what was compared.
        error: largest absolute error; of codes and labels, the number of differing entries that are not proven ties.
        tolerance: what it may be.
        compared: how many numbers.
        ties: how many differing codes or labels are proven ties.
        note: what is wrong, where the error alone does not say it.
    """

    file: str
    stage: str
    error: float
    tolerance: float
    compared: int
    ties: int = 0
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error stays within the tolerance (not so for NaN)."""
        return self.error <= self.tolerance


@dataclass(kw_only=True)
class Report:
    """Comparisons as they come in, the worst of every stage kept.

    Attributes:
        dtype: number format that this package computes in.
        rows: by (file, stage), in the order of arrival.
        skipped: files and arrays that were not compared, with the reason.
    """

    dtype: torch.dtype
    rows: dict[tuple[str, str], Measurement] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something was compared, and all of it agrees."""
        return bool(self.rows) and all(row.ok for row in self.rows.values())

    def close(self, file: GoldenFile, key: str, value: Tensor | NDArray[Any] | float, kind: str, stage: str) -> None:
        """Compare an array of a file with what this package computes; nothing happens if the file does not hold it."""
        if key not in file:
            return
        reference = file.tensor(key).double()
        found = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
        if found.shape != reference.shape:
            self.add(file, stage, math.inf, 0.0, 0, f"{key}: shape {tuple(found.shape)} for {tuple(reference.shape)}")
            return
        error = float((found - reference).abs().max()) if found.numel() else 0.0
        largest = float(reference.abs().max()) if found.numel() else 0.0
        self.add(file, stage, error, TOLERANCE[kind].of(self.dtype, largest), found.numel())

    def equal(self, file: GoldenFile, key: str, value: Tensor, stage: str, tie: Tensor | None = None) -> None:
        """Compare integers; entries where ``tie`` is True may differ."""
        if key not in file:
            return
        reference, value = file.tensor(key).long(), value.cpu().long()
        if value.shape != reference.shape:
            self.add(file, stage, math.inf, 0.0, 0, f"{key}: shape {tuple(value.shape)} for {tuple(reference.shape)}")
            return
        differs = value != reference
        proven = differs & (torch.zeros_like(differs) if tie is None else tie.cpu())
        self.add(file, stage, float((differs & ~proven).sum()), 0.0, value.numel(), ties=int(proven.sum()))

    def add(
        self, file: GoldenFile, stage: str, error: float, limit: float, compared: int, note: str = "", ties: int = 0
    ) -> None:
        """Enter one comparison."""
        error = math.inf if math.isnan(error) else error
        name = file.path.name
        new = Measurement(file=name, stage=stage, error=error, tolerance=limit, compared=compared, ties=ties, note=note)
        old = self.rows.get((name, stage), new)
        if old is not new:
            worst = max(
                old, new, key=lambda row: (not row.ok, row.error / row.tolerance if row.tolerance else row.error)
            )
            new = replace(worst, compared=old.compared + compared, ties=old.ties + ties, note=old.note or note)
        self.rows[name, stage] = new

    def table(self) -> str:
        """The report as a table in Markdown."""
        lines = ["| file | stage | numbers | largest error | tolerance | |", "|---|---|---|---|---|---|"]
        for row in self.rows.values():
            verdict = "ok" if row.ok else "BEYOND"
            note = f" ({row.note})" if row.note else f" ({row.ties} proven ties)" if row.ties else ""
            figures = f"{row.compared:,} | {row.error:.1e} | {row.tolerance:.1e}"
            lines.append(f"| {row.file} | {row.stage} | {figures} | {verdict}{note} |")
        lines += [f"| {name} | skipped: {reason} | | | | |" for name, reason in self.skipped.items()]
        return "\n".join(lines)
