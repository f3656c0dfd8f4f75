"""Score a checkpoint: reconstruction, and forecasting beside the baselines that it has to beat."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from world_model.data.clips import scene_of, windows
from world_model.data.index import SceneIndex
from world_model.errors import IIWorldError, OptionError
from world_model.evaluation.forecasting import PAST, ForecastResult, forecast_scene, steps_of
from world_model.evaluation.partial import PartialResults
from world_model.evaluation.reconstruction import ReconstructionResult, reconstruct_scene
from world_model.evaluation.report import Report
from world_model.evaluation.streams import spread
from world_model.forecaster import Forecaster
from world_model.grid import OCC3D, VoxelGrid
from world_model.runtime import choose_device, keep_memory
from world_model.tokenizer import Tokenizer

PROTOCOL = 1
"""Raised when the same settings would give other numbers, so that old partial results are not mixed in."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score a checkpoint on a split: reconstruction (labels -> tokens -> labels), and forecasting (4 past keyframes and
    the current one in; 1, 2, 3 s ahead out) beside copy-paste, ego warp and ego warp + constant-velocity boxes.

    Without options: the bundled checkpoint on the bundled synthetic demo scenes. A run that was killed goes on where it
    stopped. For a quick look on a CPU use --max-scenes or --max-windows.
    """

    index: Path | None = None
    """Index file from `python -m world_model.prepare`, or its folder. If not given: the bundled demo scenes."""
    checkpoint: Path | None = None
    """Folder with tokenizer.safetensors and forecaster.safetensors. If not given: the bundled nano checkpoint."""
    out: Path = Path("runs/evaluation")
    """Folder for results.md, results.json, the plots, and partial results."""
    split: str = "val"
    """Scenes to score: val (held out), train, or all."""
    what: tuple[Literal["reconstruction", "forecasting"], ...] = ("reconstruction", "forecasting")
    """What to measure."""
    models: Literal["both", "tokenizer", "none"] = "both"
    """Which models to load: with `tokenizer` no forecaster is needed, with `none` only the baselines are scored."""
    horizons_s: tuple[float, ...] = (1.0, 2.0, 3.0)
    """Forecast horizons in seconds. The long table is 1 2 3 4 5 6 (its windows need 12 future frames)."""
    stride: int = 1
    """Score every K-th window."""
    max_windows: int | None = None
    """Score at most this many windows, evenly spread over the split."""
    max_scenes: int | None = None
    """Score at most this many scenes, evenly spread over the split."""
    batch: int = 4
    """Windows per forecast; a matter of speed and memory, not of results."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the models."""
    resume: bool = True
    """Use partial results of an earlier run with the same data, models and settings."""

    def __post_init__(self) -> None:
        steps_of(self.horizons_s)
        for name in ("stride", "batch", "max_windows", "max_scenes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name}={value}", "a number >= 1", f"leave --{name.replace('_', '-')} out")
        if not self.what or (self.models == "none" and self.what == ("reconstruction",)):
            raise OptionError(
                f"what={self.what} with models={self.models}", "something to measure", "see --help for --what, --models"
            )


@dataclass(frozen=True, kw_only=True)
class _Models:
    tokenizer: Tokenizer | None
    forecaster: Forecaster | None
    name: str
    fingerprint: str


def evaluate(options: Evaluate) -> Report:
    """Measure what the options ask for, write the report, and return it.

    Raises:
        DataError: index or labels are missing or damaged.
        CheckpointError: the checkpoint is missing or damaged.
        OutputError: results cannot be written; partial results stay.
    """
    index = SceneIndex.load(options.index) if options.index else _demo_index()
    device = choose_device(options.device)
    models = _load_models(options, device)
    scenes = spread(index.scenes(options.split), options.max_scenes)
    held_out = {"val": "held-out", "train": "training scenes"}.get(options.split, f"split {options.split}")
    settings = {
        "data": f"{index.source}, split {options.split}, {len(scenes)} of {len(index.scenes(options.split))} scenes, "
        f"index {index.fingerprint}",
        "models": models.name,
        "precision": f"{options.dtype} on {device}",
    }
    depends: dict[str, Any] = {
        "protocol": PROTOCOL,
        "index": index.fingerprint,
        "models": models.fingerprint,
        "dtype": options.dtype,
        "device": device.type,
    }
    reconstruction = forecasting = None
    if "reconstruction" in options.what and models.tokenizer is not None:
        store = PartialResults(options.out / "partial", {**depends, "what": "reconstruction"}, options.resume)
        reconstruction = _reconstruct(index, scenes, models.tokenizer, store)
    if "forecasting" in options.what:
        frames, total = _choose_windows(index, scenes, options)
        settings["windows"] = f"{sum(map(len, frames.values()))} of {total}"
        depends |= {"what": "forecasting", "horizons_s": list(options.horizons_s)}
        store = PartialResults(options.out / "partial", depends, options.resume)
        forecasting = _forecast(index, frames, models, store, options)
    report = Report(
        title=f"{index.source}, {held_out}", settings=settings, reconstruction=reconstruction, forecasting=forecasting
    )
    written = report.save(options.out)
    print("\n" + report.to_markdown())
    print("wrote " + ", ".join(str(path) for path in written))
    return report


def _reconstruct(
    index: SceneIndex, scenes: list[int], tokenizer: Tokenizer, store: PartialResults
) -> ReconstructionResult:
    total: ReconstructionResult | None = None
    for scene, name in _progress(index, scenes, "reconstruction"):
        stored = store.load(name)
        if stored is None:
            result = reconstruct_scene(tokenizer, index, scene)
            store.save(name, counts=result.counts, frames=np.array(result.frames))
        else:
            result = ReconstructionResult(counts=stored["counts"], frames=int(stored["frames"]))
        total = result if total is None else total + result
        print(f" mIoU {100 * total.confusion.miou():.2f}, IoU {100 * total.confusion.iou():.2f} so far", flush=True)
    assert total is not None
    return total


def _forecast(
    index: SceneIndex, frames: dict[int, list[int]], models: _Models, store: PartialResults, options: Evaluate
) -> ForecastResult:
    total: ForecastResult | None = None
    for scene, name in _progress(index, list(frames), "forecasting"):
        # Which windows of the scene were scored is part of the name: another stride is another result.
        key = f"{name}-{_digest(np.array(frames[scene]).tobytes())}"
        stored = store.load(key)
        if stored is None:
            result = forecast_scene(
                index,
                scene,
                frames[scene],
                tokenizer=models.tokenizer,
                forecaster=models.forecaster,
                horizons_s=options.horizons_s,
                batch=options.batch,
                grid=_grid(models),
            )
            store.save(key, rows=np.array(result.rows), counts=result.counts, ego_error_m=result.ego_error_m)
        else:
            result = ForecastResult(
                horizons_s=options.horizons_s,
                rows=tuple(stored["rows"].tolist()),
                counts=stored["counts"],
                windows=len(frames[scene]),
                ego_error_m=stored["ego_error_m"],
            )
        total = result if total is None else total + result
        print(" mean mIoU " + ", ".join(f"{r} {100 * total.mean(r, 'miou'):.2f}" for r in total.rows), flush=True)
    assert total is not None
    return total


def _choose_windows(index: SceneIndex, scenes: list[int], options: Evaluate) -> tuple[dict[int, list[int]], int]:
    """Current frames to score, by scene, and how many windows the split has."""
    every = windows(index, options.split, PAST, steps_of(options.horizons_s)[-1])
    chosen = set(scenes)
    inside = [frame for frame in every if scene_of(index, frame) in chosen]
    if not inside:
        raise OptionError(
            "none of the chosen scenes is long enough for a window", "longer scenes", "raise --max-scenes"
        )
    by_scene: dict[int, list[int]] = {}
    for frame in spread(inside[:: options.stride], options.max_windows):
        by_scene.setdefault(scene_of(index, frame), []).append(frame)
    return by_scene, len(every)


def _progress(index: SceneIndex, scenes: list[int], what: str) -> Iterator[tuple[int, str]]:
    begin = time.perf_counter()
    for done, scene in enumerate(scenes):
        passed = time.perf_counter() - begin
        left = f", about {passed / done * (len(scenes) - done):.0f} s left" if done else ""
        name = str(index.scene_name[scene])
        print(f"[{what} {done + 1}/{len(scenes)}{left}] {name}:", end="", flush=True)
        yield scene, name


def _load_models(options: Evaluate, device: torch.device) -> _Models:
    if options.models == "none":
        return _Models(tokenizer=None, forecaster=None, name="none", fingerprint="none")
    from world_model.checkpoint import load_tokenizer, load_world

    dtype, name = DTYPES[options.dtype], str(options.checkpoint or "bundled nano")
    forecaster: Forecaster | None = None
    if options.models == "tokenizer":
        tokenizer, card = load_tokenizer(options.checkpoint, device)
        tokenizer, trained, fingerprint = tokenizer.to(dtype), card, str(card["weights"])
    else:
        world = load_world(options.checkpoint, device, dtype)
        tokenizer, forecaster, trained = world.tokenizer, world.forecaster, world.card
        fingerprint = f"{trained['tokenizer']['weights']}+{trained['weights']}"
    name += f" ({options.models}, trained on {trained.get('data_source', 'unknown')} data, weights {fingerprint})"
    return _Models(tokenizer=tokenizer, forecaster=forecaster, name=name, fingerprint=fingerprint)


def _grid(models: _Models) -> VoxelGrid:
    return models.tokenizer.config.grid if models.tokenizer is not None else OCC3D


def _demo_index() -> SceneIndex:
    from world_model.data.demo import demo_root

    print("no --index given: using the bundled synthetic demo scenes")
    return SceneIndex.load(demo_root())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def main() -> None:
    """Command line."""
    try:
        options = tyro.cli(Evaluate, prog="python -m world_model.evaluate")
        keep_memory()
        evaluate(options)
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
