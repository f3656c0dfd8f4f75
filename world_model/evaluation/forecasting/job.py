"""One evaluation as every process sees it: what to load, what to score, where finished scenes are kept."""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from world_model.checkpoints.checkpoint import TOKENIZER_FILE, bundled_path, load_tokenizer
from world_model.checkpoints.shared import load_world, shared_geometric
from world_model.core.grid import OCC3D, VoxelGrid
from world_model.core.runtime import choose_device
from world_model.data.index import SceneIndex
from world_model.evaluation.forecasting.actions import ActionModel, action_model
from world_model.evaluation.forecasting.fingerprint import fingerprint
from world_model.evaluation.forecasting.partial import PartialResults
from world_model.evaluation.forecasting.scene_data import SceneData
from world_model.evaluation.forecasting.scoring import Contest, SceneScore, SceneWork, read_scene, score_scene
from world_model.evaluation.result import ForecastResult, ReconstructionResult
from world_model.models.forecaster import Forecaster
from world_model.models.tokenizer import Tokenizer
from world_model.worlds import build_world
from world_model.worlds.kinds import GEOMETRIC, II_WORLD
from world_model.worlds.protocol import World
from world_model.worlds.token import TokenWorld

PROTOCOL = 4
"""Raised when the same settings would give other numbers, so that old partial results are not mixed in."""
GPU_SLOTS = 8
"""Slots of a batch on a GPU, which is idle with fewer; one sample keeps a CPU core busy."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a process needs to be told; see `world_model.evaluate.Evaluate` for the fields.

    Attributes:
        index: the index file or its folder.
        partial: folder of finished scenes.
    """

    index: Path
    partial: Path
    checkpoint: Path | None
    models: str
    world: tuple[str, ...]
    regimes: tuple[str, ...]
    action_mode: str
    horizons_s: tuple[float, ...]
    batch: int
    device: str
    dtype: str
    resume: bool


class Bench:
    """A job with its data and models loaded.

    Args:
        job: what to load.
        number: which process of this machine this is; spreads processes over several GPUs.

    Attributes:
        index: the data set.
        device: where the models are.
        contest: who forecasts.
        models: what all models are, in words.
        decides: everything that the results depend on.

    Raises:
        DataError: there is no index, or it is damaged.
        CheckpointError: the checkpoint is missing or damaged.
        OptionError: there is no such device, world or action mode.
    """

    def __init__(self, job: Job, number: int = 0) -> None:
        self.index = SceneIndex.load(job.index)
        self.device = choose_device(job.device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", number % torch.cuda.device_count())
        loaded = _load_models(job, self.device)
        self.models, grid = loaded.told, loaded.grid
        named = {name.rpartition(":")[2]: name for name in job.world if name != II_WORLD}
        worlds: dict[str, World] = {}
        if loaded.tokenizer is not None and loaded.forecaster is not None:
            worlds[II_WORLD] = TokenWorld(loaded.tokenizer, loaded.forecaster)
        worlds |= {
            short: build_world(name, checkpoint=job.checkpoint, device=str(self.device), grid=grid)
            for short, name in named.items()
        }
        actions = action_model(job.action_mode) if "action" in job.regimes else None
        self.contest = Contest(
            tokenizer=loaded.tokenizer,
            worlds=worlds,
            regimes=job.regimes,
            actions=actions,
            horizons_s=job.horizons_s,
            batch=job.batch,
            slots=1 if self.device.type == "cpu" else GPU_SLOTS,
            grid=grid,
        )
        self.decides: dict[str, Any] = {
            "protocol": PROTOCOL,
            "index": self.index.fingerprint,
            "weights": loaded.weights,
            "dtype": job.dtype,
            "device": self.device.type,
            "slots": self.contest.slots,
        }
        told = {
            "what": "forecasting",
            "rows": list(self.contest.rows),
            "horizons_s": list(job.horizons_s),
            "worlds": {name: fingerprint(worlds[name]) for name in named},
            "actions": [job.action_mode, _source_hash(actions.move)] if actions is not None else None,
        }
        self._forecasts = PartialResults(job.partial, {**self.decides, **told}, job.resume)
        rebuilt = {**self.decides, "what": "reconstruction"}
        self._reconstructions = PartialResults(job.partial, rebuilt, job.resume)

    def read(self, work: SceneWork) -> SceneData:
        """Read the labels of a scene."""
        return read_scene(self.index, work, self.contest)

    def score(self, scene: SceneData, work: SceneWork) -> SceneScore:
        """Score a scene, and keep its result on disk."""
        score = score_scene(scene, work, self.contest)
        self._keep(work, score)
        return score

    def stored(self, work: SceneWork) -> tuple[SceneScore, SceneWork | None]:
        """What an earlier run has left of a scene, and what is still to be done."""
        forecast, rebuilt = self._stored_forecast(work), self._stored_reconstruction(work)
        frames = () if forecast is not None else work.frames
        again = work.reconstruct and rebuilt is None
        left = SceneWork(scene=work.scene, frames=frames, reconstruct=again) if frames or again else None
        return SceneScore(forecast=forecast, reconstruction=rebuilt), left

    def _stored_forecast(self, work: SceneWork) -> ForecastResult | None:
        found = self._forecasts.load(self._forecast_name(work)) if work.frames else None
        if found is None or not {"counts", "missed"} <= set(found):
            return None
        return ForecastResult(
            horizons_s=self.contest.horizons_s,
            rows=self.contest.rows,
            counts=found["counts"],
            windows=len(work.frames),
            missed=found["missed"],
        )

    def _stored_reconstruction(self, work: SceneWork) -> ReconstructionResult | None:
        found = self._reconstructions.load(self._name(work)) if work.reconstruct else None
        if found is None or not {"counts", "frames"} <= set(found):
            return None
        return ReconstructionResult(counts=found["counts"], frames=int(found["frames"]))

    def _keep(self, work: SceneWork, score: SceneScore) -> None:
        if score.forecast is not None:
            values = {"counts": score.forecast.counts, "missed": score.forecast.missed}
            self._forecasts.save(self._forecast_name(work), **values)
        if score.reconstruction is not None:
            found = score.reconstruction
            self._reconstructions.save(self._name(work), counts=found.counts, frames=np.array(found.frames))

    def _name(self, work: SceneWork) -> str:
        return str(self.index.scene_name[work.scene])

    def _forecast_name(self, work: SceneWork) -> str:
        # Which windows of the scene were scored is part of the name: another stride is another result.
        digest = hashlib.sha256(np.array(work.frames, np.int64).tobytes()).hexdigest()[:12]
        return f"{self._name(work)}-{digest}"


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """What a job's checkpoint gave.

    Attributes:
        tokenizer, forecaster: of the token architecture, where they are asked for.
        weights: a hash of theirs; other worlds have fingerprints of their own.
        told: all models in words.
        grid: their voxel grid.
    """

    tokenizer: Tokenizer | None = None
    forecaster: Forecaster | None = None
    weights: str = "none"
    told: str = "none"
    grid: VoxelGrid = OCC3D


def _load_models(job: Job, device: torch.device) -> _Loaded:
    found, told = _load_tokens(job, device)
    if GEOMETRIC in job.world:
        model, card = shared_geometric(job.checkpoint, device)
        found = replace(found, grid=model.config.grid)
        told = [_told(GEOMETRIC, card, str(card["weights"])), *told]
    return replace(found, told=f"{job.checkpoint or 'bundled nano'} ({'; '.join(told)})") if told else found


def _load_tokens(job: Job, device: torch.device) -> tuple[_Loaded, list[str]]:
    """The parts of the token architecture that a job needs, and what they are."""
    dtype = DTYPES[job.dtype]
    if II_WORLD in job.world:
        model = load_world(job.checkpoint, device, dtype)
        tokenizer, forecaster, name = model.tokenizer, model.forecaster, II_WORLD
        card, weights = model.card, f"{model.card['tokenizer']['weights']}+{model.card['weights']}"
    elif job.models == "tokenizer" or (job.models == "both" and _has_tokenizer(job)):
        tokenizer, card = load_tokenizer(job.checkpoint, device)
        forecaster, name, weights = None, "tokenizer", str(card["weights"])
    else:
        return _Loaded(), []
    grid = tokenizer.config.grid
    found = _Loaded(tokenizer=tokenizer.to(dtype), forecaster=forecaster, weights=weights, grid=grid)
    return found, [_told(name, card, weights)]


def _has_tokenizer(job: Job) -> bool:
    return ((job.checkpoint or bundled_path()) / TOKENIZER_FILE).exists()


def _told(name: str, card: dict[str, Any], weights: str) -> str:
    return f"{name}, trained on {card.get('data_source', 'unknown')} data, weights {weights}"


def _source_hash(thing: ActionModel | Any) -> str:
    """Hash of the file in which a class or function is written: code that has changed gives other results."""
    kind = thing if inspect.isfunction(thing) else type(thing)
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if path else kind.__qualname__
