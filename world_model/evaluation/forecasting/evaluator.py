"""What every process of an evaluation holds: the data, the loaded models, and the scores that are kept on disk."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from world_model.checkpoints.checkpoint import TOKENIZER_FILE, bundled_path, load_tokenizer, read_card
from world_model.checkpoints.shared import load_world, shared_geometric
from world_model.core.errors import OutputError
from world_model.core.grid import OCC3D
from world_model.core.runtime import choose_device
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.evaluation.forecasting.actions import action_model
from world_model.evaluation.forecasting.benchmark import Benchmark, SceneScore, SceneWork
from world_model.evaluation.forecasting.options import Evaluate
from world_model.evaluation.forecasting.scene_data import SceneData
from world_model.evaluation.partial import PartialResults, code_hash, fingerprint
from world_model.evaluation.result import ForecastResult, ReconstructionResult
from world_model.worlds import World, build_world
from world_model.worlds.build import DTYPES
from world_model.worlds.kinds import GEOMETRIC, II_WORLD, WEIGHT_FILES
from world_model.worlds.token import TokenWorld
from world_model.worlds.traffic import DEFAULT_TRAFFIC, VOXELS

PROTOCOL = 5
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
            self.forecasts.save(
                self._forecast_name(work), counts=found.counts, pose_error=found.pose_error, plans=found.plans
            )
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


def load_benchmark(options: Evaluate, device: torch.device) -> Benchmark:
    """Load everything that forecasts.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        OptionError: there is no such world or action mode.
    """
    names, path, dtype = options.worlds, options.checkpoint, DTYPES[options.dtype]
    grid, tokenizer, weights = OCC3D, None, "none"
    worlds, cards = dict[str, World](), list[str]()
    if GEOMETRIC in names:
        geometric, card = shared_geometric(path, device)
        grid = geometric.config.grid
        cards.append(_words(GEOMETRIC, card, str(card["weights"])))
    has_tokenizer = ((path or bundled_path()) / TOKENIZER_FILE).exists()
    if II_WORLD in names:
        model = load_world(path, device, dtype)
        tokenizer, weights = model.tokenizer.to(dtype), f"{model.card['tokenizer']['weights']}+{model.card['weights']}"
        worlds[II_WORLD] = TokenWorld(tokenizer, model.forecaster)
        cards.append(_words(II_WORLD, model.card, weights))
    elif options.models == "tokenizer" or (options.models == "both" and has_tokenizer):
        loaded, card = load_tokenizer(path, device)
        tokenizer, weights = loaded.to(dtype), str(card["weights"])
        cards.append(_words("tokenizer", card, weights))
    grid = tokenizer.config.grid if tokenizer is not None else grid
    for name in (name for name in names if name != II_WORLD):
        tracked = name == GEOMETRIC
        if name in WEIGHT_FILES and not tracked:
            cards += [f"{name}, trained on {read_card(path, f).get('data_source')} data" for f in WEIGHT_FILES[name]]
        for traffic in options.traffic if tracked else (DEFAULT_TRAFFIC,):
            worlds[name.rpartition(":")[2] if traffic == DEFAULT_TRAFFIC else f"{name} {traffic}"] = build_world(
                name,
                checkpoint=path,
                device=str(device),
                grid=grid,
                traffic=traffic,
                agents=options.agents if tracked else VOXELS,
            )
    return Benchmark(
        grid=grid,
        tokenizer=tokenizer,
        worlds=worlds,
        regimes=options.regimes,
        actions=action_model(options.action_mode) if "action" in options.regimes else None,
        horizons_s=options.horizons_s,
        batch=options.batch,
        mask=options.mask,
        slots=1 if device.type == "cpu" else GPU_SLOTS,
        models=f"{path or 'bundled nano'} ({'; '.join(cards)})" if cards else "none",
        weights=weights,
    )


def _words(name: str, card: dict[str, Any], weights: str) -> str:
    return f"{name}, trained on {card.get('data_source', 'unknown')} data, weights {weights}"
