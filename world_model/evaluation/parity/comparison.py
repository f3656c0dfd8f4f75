"""Compare the arrays of one golden file with what this package computes, and what the files of both models hold.

A stage is a name in the report, a kind of number (which sets its tolerance), and arrays by key. Keys that a file lacks
are passed over: files may hold any part of the layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.evaluation.parity.golden import GoldenFile
from world_model.evaluation.parity.report import TOLERANCE, Measurement, Report
from world_model.models.tokenizer import Tokenizer

Value = Tensor | NDArray[Any] | float


class Comparison:
    """The comparison of one file.

    Args:
        file: the golden file.
        report: takes what is found.

    Attributes:
        dtype: number format that this package computes in.
    """

    def __init__(self, file: GoldenFile, report: Report) -> None:
        self.file, self.report, self.dtype = file, report, report.dtype

    def read(self, key: str) -> Tensor:
        """An array in the number format of the comparison."""
        return self.file.tensor(key).to(self.dtype)

    def close(self, stage: str, kind: str, values: Mapping[str, Value], nan: float | None = None) -> None:
        """Compare numbers, each within the tolerance of its kind; NaN agrees with nothing, or stands for ``nan``."""
        for key, value in values.items():
            if key not in self.file:
                continue
            reference = self.file.tensor(key).double()
            found = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
            if nan is not None:
                reference, found = reference.nan_to_num(nan), found.nan_to_num(nan)
            if self._same_shape(stage, key, found, reference):
                error = float((found - reference).abs().max()) if found.numel() else 0.0
                largest = float(reference.abs().max()) if found.numel() else 0.0
                self.add(stage, error, found.numel(), TOLERANCE[kind].of(self.dtype, largest))

    def equal(self, stage: str, key: str, value: Tensor, tie: Tensor | None = None) -> None:
        """Compare integers; entries where ``tie`` is True may differ."""
        if key not in self.file:
            return
        reference, value = self.file.tensor(key).long(), value.cpu().long()
        if self._same_shape(stage, key, value, reference):
            differs = value != reference
            proven = differs & (torch.zeros_like(differs) if tie is None else tie.cpu())
            self.add(stage, float((differs & ~proven).sum()), value.numel(), ties=int(proven.sum()))

    def add(self, stage: str, error: float, compared: int, limit: float = 0.0, note: str = "", ties: int = 0) -> None:
        """Enter what one comparison found."""
        error, name = math.inf if math.isnan(error) else error, self.file.path.name
        self.report.add(
            Measurement(file=name, stage=stage, error=error, tolerance=limit, compared=compared, ties=ties, note=note)
        )

    def _same_shape(self, stage: str, key: str, found: Tensor, reference: Tensor) -> bool:
        if found.shape == reference.shape:
            return True
        self.add(stage, math.inf, 0, note=f"{key}: shape {tuple(found.shape)} for {tuple(reference.shape)}")
        return False

    def slack(self, kind: str) -> float:
        """The tolerance of small numbers of a kind."""
        return TOLERANCE[kind].of(self.dtype, 0.0)

    def strided(self, name: str, value: Tensor) -> dict[str, Tensor]:
        """Maps (..., X, Y) by key as the file holds them: whole as NAME, or with a stride as NAME_sN."""
        found = self.file.matches(re.escape(name) + r"(?:_s(\d+))?$")
        steps = {key: int(match[1] or 1) for key, match in found.items()}
        return {key: value[..., ::step, ::step] for key, step in steps.items()}

    def decoded(self, prefix: str, labels_key: str, tokenizer: Tokenizer, token: Tensor, logits: Tensor) -> None:
        """Logits (B, X, Y, Z, K) of a token, and its labels (B, X, Y, Z), of which those are ties whose logits lie
        within the tolerance."""
        maps = self.strided(f"{prefix}logits", logits.movedim((1, 2), (-2, -1)))
        self.close("logits", "token", {k: part.movedim((-2, -1), (1, 2))[:, None] for k, part in maps.items()})
        if labels_key not in self.file:
            return
        labels, given = tokenizer.decode(token), self.file.tensor(labels_key).long()[:, 0]
        if given.shape != labels.shape:
            shape = tuple(given.shape)
            raise DataError(f"{self.file.path}: {labels_key} of shape {shape}", str(tuple(labels.shape)), "")
        best = logits.amax(-1)
        gap = best - logits.gather(-1, given[..., None])[..., 0]
        # The fast decoder tells logits apart to 4e-6 of their size.
        slack = 2 * self.slack("token") + 4e-6 * best.abs()
        self.equal("labels", labels_key, labels[:, None], (gap <= slack)[:, None])

    def gradients(
        self, prefix: str, model: nn.Module, names: list[str], kind: str, skip: str = r"(?!)", norms: str = ""
    ) -> None:
        """Gradient norms of all parameters (in the order of ``names``, but those that ``skip`` is found in), and whole
        gradients where stored, under ``prefix`` and the parameter's name. ``norms``: the key of the norms."""
        gradients = {n: torch.zeros(()) if p.grad is None else p.grad.double() for n, p in model.named_parameters()}
        if unknown := set(names) - set(gradients):
            found = f"{self.file.path}: gradients of unknown parameters {sorted(unknown)[:3]}"
            raise DataError(found, "published names", "")
        if norms in self.file:
            stored = self.file.tensor(norms).double()
            keep = torch.tensor([re.search(skip, name) is None for name in names])
            found_norms = torch.stack([gradients[name].norm().cpu() for name in names])
            # Norms of 0 to 100: relative to their size, down to a thousandth of the largest.
            error = ((found_norms - stored).abs() / (stored.abs() + 1e-3 * stored[keep].max()))[keep].max()
            limit = TOLERANCE[f"{kind} norm"].of(self.dtype, 1.0)
            self.add("training: gradient norms (relative)", float(error), int(keep.sum()), limit)
        whole = self.file.matches(re.escape(prefix) + "(.*)")
        self.close("training: gradients", kind, {key: gradients[match[1]] for key, match in whole.items()})
