"""From raw figures to one number in [0, 1]; kept as JSON beside the checkpoint.

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
from world_model.trust.figures import Figures
from world_model.worlds.protocol import WorldState

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
        weight, scale = (
            torch.tensor(row, dtype=torch.float32, device=table.device) for row in (self.weight, self.scale)
        )
        offset = float(np.dot(self.center, np.divide(self.weight, self.scale)))
        return _bend(table @ (weight / scale) - offset, self.knots, self.trust)

    def of_table(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) trust of N forecasts in double precision; the figures (N, K) in the order of ``names``."""
        score = ((table - self.center) / self.scale) @ np.array(self.weight)
        return np.asarray(np.interp(score, self.knots, self.trust))

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        write_json(path, {"format": "iiworld-trust", "version": VERSION, **vars(self)})

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read it.

        Raises:
            CheckpointError: missing, damaged, or of another version.
        """
        remedy = "run `python -m world_model.calibrate_trust` for this checkpoint, or delete the file"
        try:
            found = json.loads(path.read_text(encoding="utf-8-sig"))
            if found["format"] != "iiworld-trust" or found["version"] != VERSION:
                raise ValueError(f"format {found['format']}, version {found['version']}")
            columns = {n: tuple(float(v) for v in found[n]) for n in ("center", "scale", "weight", "knots", "trust")}
            names = tuple(str(name) for name in found["names"])
            models = tuple(str(name) for name in found["models"])
            made = cls(names=names, models=models, card=dict(found["card"]), **columns)
            made._check()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            found = f"{path} is no trust calibration ({error})"
            raise CheckpointError(found, f"format iiworld-trust, version {VERSION}", remedy) from error
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


def _bend(score: Tensor, knots: tuple[float, ...], values: tuple[float, ...]) -> Tensor:
    """Piecewise linear interpolation, constant beyond the ends."""
    x, y = (torch.tensor(row, dtype=torch.float32, device=score.device) for row in (knots, values))
    if len(knots) == 1:
        return y.expand_as(score).clone()
    right = torch.searchsorted(x, score.contiguous()).clamp(1, len(knots) - 1)
    share = ((score - x[right - 1]) / (x[right] - x[right - 1])).clamp(0, 1)
    return y[right - 1] + share * (y[right] - y[right - 1])


class Trust:
    """A calibrated world: state -> (B,) trust in [0, 1].

    Args:
        figures: raw figures of the world's states.
        calibration: fitted for them.
    """

    def __init__(self, figures: Figures, calibration: Calibration) -> None:
        self.figures, self.calibration = figures, calibration

    def __call__(self, state: WorldState) -> Tensor:
        return self.calibration.of(self.figures(state))
