"""What every process of an evaluation holds: the data, the loaded models, and the scores that are kept on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from world_model.checkpoints.checkpoint import (
    TOKENIZER_FILE,
    bundled_path,
    load_tokenizer,
    load_world,
    shared_geometric,
)
from world_model.core.grid import OCC3D, VoxelGrid
from world_model.core.runtime import choose_device
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.evaluation.forecasting.actions import action_model
from world_model.evaluation.forecasting.benchmark import Benchmark, SceneScore, SceneWork
from world_model.evaluation.forecasting.fingerprint import code_hash, fingerprint
from world_model.evaluation.forecasting.options import Evaluate
from world_model.evaluation.forecasting.partial import PartialResults
from world_model.evaluation.forecasting.scene_data import SceneData
from world_model.evaluation.result import ForecastResult, ReconstructionResult
from world_model.models.tokenizer import Tokenizer
from world_model.worlds import World, build_world
from world_model.worlds.build import DTYPES
from world_model.worlds.kinds import GEOMETRIC, II_WORLD
from world_model.worlds.token import TokenWorld

PROTOCOL = 4
"""Raised when the same settings would give other numbers, so that old partial results are not mixed in."""
GPU_SLOTS = 8
"""Slots of a batch on a GPU, which is idle with fewer; one sample keeps a CPU core busy."""


class Evaluator:
    """The options with their data and models loaded.

    Args:
        options: what to load.
        local_rank: which process of this machine this is; spreads processes over several GPUs.

    Attributes:
        index: the data set.
        device: where the models are.
        benchmark: who forecasts.
        models: what all models are, in words.

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
        models = _load(options, self.device)
        self.models = f"{options.checkpoint or 'bundled nano'} ({'; '.join(models.cards)})" if models.cards else "none"
        actions = action_model(options.action_mode) if "action" in options.regimes else None
        self.benchmark = Benchmark(
            grid=models.grid,
            tokenizer=models.tokenizer,
            worlds=models.worlds,
            regimes=options.regimes,
            actions=actions,
            horizons_s=options.horizons_s,
            batch=options.batch,
            slots=1 if self.device.type == "cpu" else GPU_SLOTS,
        )
        common = {
            "protocol": PROTOCOL,
            "index": self.index.fingerprint,
            "weights": models.weights,
            "dtype": options.dtype,
            "device": self.device.type,
            "slots": self.benchmark.slots,
        }
        forecasting = {
            "what": "forecasting",
            "rows": list(self.benchmark.rows),
            "horizons_s": list(options.horizons_s),
            "worlds": {name: fingerprint(world) for name, world in models.worlds.items()},
            "actions": [options.action_mode, code_hash(actions.move)] if actions is not None else None,
        }
        partial = options.out / "partial"
        self.forecasts = PartialResults(partial, {**common, **forecasting}, options.resume)
        self.reconstructions = PartialResults(partial, {**common, "what": "reconstruction"}, options.resume)

    def read(self, work: SceneWork) -> SceneData:
        """Read the labels of a scene."""
        return self.benchmark.read(self.index, work)

    def score(self, scene: SceneData, work: SceneWork) -> SceneScore:
        """Score a scene, and keep its result on disk."""
        score = self.benchmark.score(scene, work)
        if score.forecast is not None:
            found = score.forecast
            self.forecasts.save(self._forecast_name(work), counts=found.counts, pose_error=found.pose_error)
        if score.reconstruction is not None:
            rebuilt = score.reconstruction
            self.reconstructions.save(self._name(work), counts=rebuilt.counts, frames=np.array(rebuilt.frames))
        return score

    def stored(self, work: SceneWork) -> tuple[SceneScore, SceneWork | None]:
        """What an earlier run has left of a scene, and what is still to be done."""
        found = self.forecasts.load(self._forecast_name(work)) if work.frames else None
        rebuilt = self.reconstructions.load(self._name(work)) if work.reconstruct else None
        rows, horizons_s, windows = self.benchmark.rows, self.benchmark.horizons_s, len(work.frames)
        score = SceneScore(
            forecast=ForecastResult(rows=rows, horizons_s=horizons_s, windows=windows, **found) if found else None,
            reconstruction=ReconstructionResult(counts=rebuilt["counts"], frames=int(rebuilt["frames"]))
            if rebuilt
            else None,
        )
        frames, again = () if found else work.frames, work.reconstruct and not rebuilt
        return score, SceneWork(scene=work.scene, frames=frames, reconstruct=again) if frames or again else None

    def _name(self, work: SceneWork) -> str:
        return str(self.index.scene_name[work.scene])

    def _forecast_name(self, work: SceneWork) -> str:
        # Which windows of the scene were scored is part of the name: another stride is another result.
        digest = hashlib.sha256(np.array(work.frames, np.int64).tobytes()).hexdigest()[:12]
        return f"{self._name(work)}-{digest}"


@dataclass(kw_only=True)
class _Models:
    """What is loaded.

    Attributes:
        tokenizer: of the token architecture, where it is asked for.
        worlds: by the name of their rows.
        weights: a hash of the token architecture's; worlds have fingerprints of their own.
        cards: the models of the checkpoint in words.
        grid: of all labels.
    """

    tokenizer: Tokenizer | None = None
    worlds: dict[str, World] = field(default_factory=dict)
    weights: str = "none"
    cards: list[str] = field(default_factory=list)
    grid: VoxelGrid = OCC3D


def _load(options: Evaluate, device: torch.device) -> _Models:
    names, path, dtype = options.worlds, options.checkpoint, DTYPES[options.dtype]
    found = _Models()
    if GEOMETRIC in names:
        model, card = shared_geometric(path, device)
        found.grid = model.config.grid
        found.cards.append(_words(GEOMETRIC, card, str(card["weights"])))
    has_tokenizer = ((path or bundled_path()) / TOKENIZER_FILE).exists()
    if II_WORLD in names:
        both = load_world(path, device, dtype)
        found.tokenizer = both.tokenizer.to(dtype)
        found.worlds[II_WORLD] = TokenWorld(found.tokenizer, both.forecaster)
        found.weights = f"{both.card['tokenizer']['weights']}+{both.card['weights']}"
        found.cards.append(_words(II_WORLD, both.card, found.weights))
    elif options.models == "tokenizer" or (options.models == "both" and has_tokenizer):
        tokenizer, card = load_tokenizer(path, device)
        found.tokenizer, found.weights = tokenizer.to(dtype), str(card["weights"])
        found.cards.append(_words("tokenizer", card, found.weights))
    if found.tokenizer is not None:
        found.grid = found.tokenizer.config.grid
    for name in (name for name in names if name != II_WORLD):
        world = build_world(name, checkpoint=path, device=str(device), grid=found.grid)
        found.worlds[name.rpartition(":")[2]] = world
    return found


def _words(name: str, card: dict[str, Any], weights: str) -> str:
    return f"{name}, trained on {card.get('data_source', 'unknown')} data, weights {weights}"
