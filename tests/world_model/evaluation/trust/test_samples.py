"""Errors are measured where the recording reaches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from street import SMALL, write_street

from world_model.core.errors import ConfigError
from world_model.data.index import SceneIndex
from world_model.evaluation.trust.samples import collect
from world_model.worlds import ReplayWorld


def test_errors_are_measured_where_the_recording_reaches(tmp_path: Path) -> None:
    """The recorded world forecasts itself: no error along the log, and none beside it either."""

    class Sure(ReplayWorld):
        def trust_figures(self, state: object) -> dict[str, torch.Tensor]:
            return {"nothing": torch.zeros(len(self.occupancy(state)))}  # type: ignore[arg-type]

    index = SceneIndex.load(write_street(tmp_path, scenes=1, frames=14, grid=SMALL))

    class Recorded(Sure):
        needs_future_labels = True

    samples = collect(Recorded(SMALL), index, [4, 5], 4)
    assert samples.step.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4] * 2
    assert (samples.iou[~samples.edited] == 1).all()
    assert samples.iou[samples.edited].min() > 0.97 and samples.edited.sum() == 8
    with pytest.raises(ConfigError, match="trust_figures"):
        collect(ReplayWorld(SMALL), index, [4], 2)
