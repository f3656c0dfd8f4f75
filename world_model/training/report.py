"""What a training run tells others: each callback is called with every `Report`."""

from __future__ import annotations

import csv
import io
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Pictures = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run says at one moment.

    Attributes:
        step: optimizer steps done; environment steps where a policy is trained.
        values: numbers by name; those of held-out data begin with "held_out/".
        pictures: (H, W, 3) uint8 by name.
        out: folder of the run.
        options: of the command, plain values.
        begin: steps that an earlier part of the run had done; it has reported these.
        last: nothing follows: the run has ended or was interrupted. Such a report has no values.
    """

    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    pictures: Pictures = field(default_factory=dict)
    out: Path
    options: Mapping[str, Any]
    begin: int
    last: bool = False


Callback = Callable[[Report], object]


class Reports:
    """Tells callbacks about a run. One that fails is named and left out from then on: the run is worth more.

    Args:
        out: folder of the run.
        options: of the command, plain values.
        callbacks: who is told.
        begin: steps done before.
    """

    def __init__(
        self, out: Path, options: Mapping[str, Any], callbacks: Sequence[Callback] = (), begin: int = 0
    ) -> None:
        self.out, self.options, self.callbacks, self.begin = out, options, list(callbacks), begin

    def __call__(
        self, step: int, values: Mapping[str, float] | None = None, pictures: Pictures | None = None, last: bool = False
    ) -> None:
        """Tell everyone."""
        report = Report(
            step=step,
            values=values or {},
            pictures=pictures or {},
            out=self.out,
            options=self.options,
            begin=self.begin,
            last=last,
        )
        for callback in tuple(self.callbacks):
            try:
                callback(report)
            except Exception:  # a user's own code, or a service that is away
                self.callbacks.remove(callback)
                print(f"{traceback.format_exc()}{callback} failed; the run goes on without it", flush=True)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at held-out data has found: numbers and pictures by name."""

    values: dict[str, float]
    pictures: dict[str, NDArray[Any]] = field(default_factory=dict)


def csv_text(rows: Sequence[Mapping[str, float]]) -> str:
    """Rows as CSV; the columns are those of the last row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[-1]) if rows else [], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
