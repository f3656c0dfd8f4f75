"""What every process of an evaluation holds: the data, the loaded models, and the scores that are kept on disk."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from world_model.core.errors import OutputError
from world_model.core.runtime import choose_device
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.evaluation.forecasting.benchmark import SceneScore, SceneWork
from world_model.evaluation.forecasting.loading import load_benchmark
from world_model.evaluation.forecasting.options import Evaluate
from world_model.evaluation.forecasting.scene_data import SceneData
from world_model.evaluation.partial import PartialResults, code_hash, fingerprint
from world_model.evaluation.result import ForecastResult, ReconstructionResult

PROTOCOL = 4
"""Raised when the same settings would give other numbers, so that old partial results are not mixed in."""


class Evaluator:
    """The options with their data and models loaded.

    Args:
        options: what to load.
        local_rank: which process of this machine this is; spreads processes over several GPUs.

    Attributes:
        index: the data set.
        device: where the models are.
        benchmark: who forecasts.

    Raises:
        DataError: there is no index, or it is damaged.
        CheckpointError: the checkpoint is missing or damaged.
        OptionError: there is no such device, world or action mode.
    """

    def __init__(self, options: Evaluate, local_rank: int = 0) -> None:
        self.options, self.index = options, SceneIndex.load(options.index or demo_root())
        self.device = choose_device(options.device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", local_rank % torch.cuda.device_count())
        self.benchmark = load_benchmark(options, self.device)
        actions = self.benchmark.actions
        common = {
            "protocol": PROTOCOL,
            "index": self.index.fingerprint,
            "labels": self.index.labels_digest,
            "weights": self.benchmark.weights,
            "dtype": options.dtype,
            "device": self.device.type,
            "slots": self.benchmark.slots,
            **({} if options.mask == "none" else {"mask": options.mask}),
        }
        forecasting = {
            "what": "forecasting",
            "rows": list(self.benchmark.rows),
            "horizons_s": list(options.horizons_s),
            "worlds": {name: fingerprint(world) for name, world in self.benchmark.worlds.items()},
            "actions": [options.action_mode, code_hash(actions.move)] if actions else None,
        }
        partial = options.out / "partial"
        self.forecasts = PartialResults.of(partial, {**common, **forecasting}, options.resume)
        self.reconstructions = PartialResults.of(partial, {**common, "what": "reconstruction"}, options.resume)

    def read(self, work: SceneWork) -> SceneData:
        """Read the labels of a scene."""
        return self.benchmark.read(self.index, work)

    def score(self, scene: SceneData, work: SceneWork) -> None:
        """Score a scene, and keep its result on disk."""
        score = self.benchmark.score(scene, work)
        if (found := score.forecast) is not None:
            self.forecasts.save(self._forecast_name(work), counts=found.counts, pose_error=found.pose_error)
        if (rebuilt := score.reconstruction) is not None:
            self.reconstructions.save(self._name(work), counts=rebuilt.counts, frames=np.array(rebuilt.frames))

    def left(self, work: SceneWork) -> SceneWork | None:
        """What is still to be done in a scene; None: nothing."""
        frames = () if work.frames and self.forecasts.load(self._forecast_name(work)) else work.frames
        again = work.reconstruct and not self.reconstructions.load(self._name(work))
        return SceneWork(scene=work.scene, frames=frames, reconstruct=again) if frames or again else None

    def result(self, work: SceneWork) -> SceneScore:
        """The result of a scene that was scored, by this process or another.

        Raises:
            OutputError: it is not there.
        """
        found = self.forecasts.read(self._forecast_name(work)) if work.frames else {}
        rebuilt = self.reconstructions.read(self._name(work)) if work.reconstruct else {}
        if found is None or rebuilt is None:
            raise OutputError(
                f"no result of {self._name(work)} in {self.options.out / 'partial'}",
                "a folder that all processes share, and that stays as it is",
                "give the same command again, with --out in a shared folder",
            )
        rows, horizons_s, windows = self.benchmark.rows, self.benchmark.horizons_s, len(work.frames)
        return SceneScore(
            forecast=ForecastResult(rows=rows, horizons_s=horizons_s, windows=windows, **found) if found else None,
            reconstruction=ReconstructionResult(counts=rebuilt["counts"], frames=int(rebuilt["frames"]))
            if rebuilt
            else None,
        )

    def _name(self, work: SceneWork) -> str:
        return str(self.index.scene_name[work.scene])

    def _forecast_name(self, work: SceneWork) -> str:
        # Which windows of the scene were scored is part of the name: another stride is another result.
        digest = hashlib.sha256(np.array(work.frames, np.int64).tobytes()).hexdigest()[:12]
        return f"{self._name(work)}-{digest}"
