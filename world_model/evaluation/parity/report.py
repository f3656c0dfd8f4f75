"""What a comparison found: the largest error of every stage, beside what it may be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from world_model.core.table import Table


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
    # OccWorld, computed and stored in float64; its README tabulates 1e-12 and 1e-5, its scores were summed in float32.
    "loss": Tolerance(1e-11, 2.0e-5, 1.0),
    "score": Tolerance(2.0e-5, 2.0e-2, 1.0),
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

    @property
    def badness(self) -> tuple[bool, float]:
        """Rises with the error relative to the tolerance; first of all, whether it lies beyond."""
        return not self.ok, self.error / self.tolerance if self.tolerance else self.error


@dataclass(kw_only=True)
class Report:
    """The comparisons, the worst of every stage kept.

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

    def add(self, new: Measurement) -> None:
        """Enter one comparison."""
        old = self.rows.get((new.file, new.stage))
        if old is not None:
            total, ties, note = old.compared + new.compared, old.ties + new.ties, old.note or new.note
            new = replace(max(old, new, key=lambda row: row.badness), compared=total, ties=ties, note=note)
        self.rows[new.file, new.stage] = new

    def table(self) -> str:
        """The report as a table in Markdown."""
        rows = []
        for row in self.rows.values():
            note = f" ({row.note})" if row.note else f" ({row.ties} proven ties)" if row.ties else ""
            numbers = [f"{row.compared:,}", f"{row.error:.1e}", f"{row.tolerance:.1e}"]
            rows.append([row.file, row.stage, *numbers, f"{'ok' if row.ok else 'BEYOND'}{note}"])
        rows += [[name, f"skipped: {reason}", "", "", "", ""] for name, reason in self.skipped.items()]
        return Table(["file", "stage", "numbers", "largest error", "tolerance", ""], rows).markdown()
