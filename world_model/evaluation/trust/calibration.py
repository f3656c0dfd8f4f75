"""From raw figures to one number in [0, 1]: fitted on held-out drives, kept as JSON beside the checkpoint.

Trust is the expected IoU of the forecast with what will be there, over the IoU that the model reaches when it only has
to reconstruct what it sees: 1 means as good as an observation, 0 that nothing is right. The expectation is a linear map
of the standardised figures, bent by a rising piecewise linear one (isotonic regression) until it is calibrated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import CheckpointError
from world_model.core.files import write_json
from world_model.evaluation.trust.samples import Samples
from world_model.evaluation.trust.statistics import monotone, ridge

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """K figures to trust.

    Attributes:
        names: (K) of the figures.
        center, scale, weight: (K) standardise and weigh them.
        knots, trust: (J) rising scores and the trust that belongs to each; in between it is linear, beyond constant.
        models: hashes of the weights that it holds for.
        card: data, figures, command: what the file says about itself.
    """

    names: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    knots: tuple[float, ...]
    trust: tuple[float, ...]
    models: tuple[str, ...] = ()
    card: dict[str, Any] = field(default_factory=dict)

    def of(self, figures: Mapping[str, Tensor]) -> Tensor:
        """(B,) float32 trust of raw figures (B,)."""
        table = torch.stack([figures[name].float() for name in self.names], -1)
        # One small matrix product; the constants are folded into it.
        weight = torch.tensor(self.weight, device=table.device) / torch.tensor(self.scale, device=table.device)
        offset = float(np.dot(self.center, np.divide(self.weight, self.scale)))
        return _bend(table @ weight - offset, self.knots, self.trust)

    def of_table(self, figures: NDArray[Any]) -> NDArray[Any]:
        """(N,) trust of raw figures (N, K), in double precision."""
        score = ((figures - self.center) / self.scale) @ np.array(self.weight)
        return np.interp(score, self.knots, self.trust)

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        names = ("names", "center", "scale", "weight", "knots", "trust", "models", "card")
        write_json(path, {"format": "iiworld-trust", "version": VERSION, **{n: getattr(self, n) for n in names}})

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read it.

        Raises:
            CheckpointError: missing, damaged, or of another version.
        """
        remedy = "run `python -m world_model.calibrate_trust` for this checkpoint, or delete the file"
        try:
            found = json.loads(path.read_text())
            if found["format"] != "iiworld-trust" or found["version"] != VERSION:
                raise ValueError(f"format {found['format']}, version {found['version']}")
            columns = {n: tuple(float(v) for v in found[n]) for n in ("center", "scale", "weight", "knots", "trust")}
            names = tuple(str(name) for name in found["names"])
            models = tuple(str(name) for name in found["models"])
            made = cls(names=names, models=models, card=dict(found["card"]), **columns)
            made._check()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            found_what = f"{path} is no trust calibration ({error})"
            raise CheckpointError(found_what, f"format iiworld-trust, version {VERSION}", remedy) from error
        return made

    def _check(self) -> None:
        numbers = np.array([*self.center, *self.scale, *self.weight, *self.knots, *self.trust])
        count, knots = len(self.names), np.array(self.knots)
        if not count or {len(self.center), len(self.scale), len(self.weight)} != {count}:
            raise ValueError("columns of different lengths")
        if not np.isfinite(numbers).all() or min(self.scale) <= 0:
            raise ValueError("numbers that are not finite, or no scale")
        if len(knots) < 1 or len(knots) != len(self.trust) or (np.diff(knots) <= 0).any():
            raise ValueError("knots that do not rise")
        if min(self.trust) < 0 or max(self.trust) > 1 or (np.diff(self.trust) < 0).any():
            raise ValueError("trust that falls, or outside 0..1")


def fit(samples: Samples, names: tuple[str, ...] | None = None, strength: float = 3.0) -> Calibration:
    """Calibrate on forecasts whose error is known.

    Args:
        samples: forecasts; those of step 0 tell what a reconstruction reaches.
        names: figures to use; all if not given.
        strength: of the ridge that keeps figures which say the same from fighting each other.
    """
    names = samples.names if names is None else names
    rows = samples.step > 0
    table = samples.figures[:, [samples.names.index(name) for name in names]]
    center, scale = table[rows].mean(0), table[rows].std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    quality = quality_of(samples)
    weight, _ = ridge((table[rows] - center) / scale, quality[rows], strength)
    # Reconstructions lie at the trustworthy end of the same scale.
    score = ((table - center) / scale) @ weight
    knots, trust = monotone(score, quality)
    return Calibration(
        names=tuple(names),
        center=tuple(center.tolist()),
        scale=tuple(scale.tolist()),
        weight=tuple(weight.tolist()),
        knots=tuple(knots.tolist()),
        trust=tuple(trust.clip(0, 1).tolist()),
    )


def ceiling_of(samples: Samples) -> float:
    """Mean IoU of the reconstructions: what is as good as an observation."""
    return float(samples.iou[samples.step == 0].mean())


def quality_of(samples: Samples, ceiling: float | None = None) -> NDArray[Any]:
    """(N,) what trust should be: IoU over that of a reconstruction, at most 1."""
    return np.minimum(samples.iou / (ceiling_of(samples) if ceiling is None else ceiling), 1.0)


def _bend(score: Tensor, knots: tuple[float, ...], values: tuple[float, ...]) -> Tensor:
    """Piecewise linear interpolation, constant beyond the ends."""
    x, y = torch.tensor(knots, device=score.device), torch.tensor(values, device=score.device)
    if len(knots) == 1:
        return y.expand_as(score).clone()
    right = torch.searchsorted(x, score.contiguous()).clamp(1, len(knots) - 1)
    share = ((score - x[right - 1]) / (x[right] - x[right - 1])).clamp(0, 1)
    return y[right - 1] + share * (y[right] - y[right - 1])
