"""How fast a preset trains on a device, how long it waits for data, and how much memory it takes.

The training loop itself is timed, with reading, optimizer and weight average; only checkpoints are left out. Labels
come from the bundled synthetic scenes unless an index is given; the forecaster gets random tokens of the right size,
which cost what real ones cost.

    python benchmarks/training.py --model tokenizer --preset base --device cuda
    python benchmarks/training.py --model forecaster --preset base --device cuda --batch 8
    torchrun --nproc-per-node 2 benchmarks/training.py --model tokenizer --preset base
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from world_model import train_forecaster, train_tokenizer
from world_model.checkpoints.checkpoint import config_to_json
from world_model.core.runtime import keep_memory
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.data.streams import StreamPlan
from world_model.data.tokens import TokenCache
from world_model.models.forecaster import PRESETS as FORECASTERS
from world_model.models.forecaster import Forecaster, for_tokenizer
from world_model.models.forecaster.training import ForecasterTask
from world_model.models.tokenizer import PRESETS as TOKENIZERS
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer.training import TokenizerTask
from world_model.training.distributed import Ranks, join
from world_model.training.loop import Task, TrainConfig, Trainer
from world_model.training.precision import Precision


@dataclass(frozen=True, kw_only=True)
class Args:
    """Time some training steps of a preset."""

    model: Literal["tokenizer", "forecaster"] = "tokenizer"
    """Which of the two to train."""
    preset: Literal["base", "nano", "tiny"] = "nano"
    """Sizes and recipe."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    batch: int = 0
    """Samples of one pass in one process; 0 takes the preset's (base 8, as on each of the paper's devices; else 2)."""
    accumulate: int = 1
    """Passes before a step."""
    precision: Precision = "auto"
    """Of the heavy layers."""
    workers: int = 2
    """Threads that read."""
    warmup: int = 3
    """Steps that are not counted."""
    steps: int = 20
    """Steps that are."""
    index: Path | None = None
    """A prepared data set instead of the bundled scenes."""
    out: Path | None = None
    """JSON file to write the figures to."""


def tokenizer_task(args: Args, index: SceneIndex, ranks: Ranks, folder: Path) -> tuple[Task, TrainConfig]:
    """The tokenizer's own recipe, as its command trains it."""
    options = {"index": folder, "out": folder, "preset": args.preset, "batch": args.batch, "precision": args.precision}
    recipe_args = train_tokenizer.Args(**options, accumulate=args.accumulate, iterations=args.warmup + args.steps)
    train, loss = train_tokenizer.recipe(recipe_args, len(index.token), ranks.count)
    model, share = Tokenizer(TOKENIZERS[args.preset]()).to(ranks.device), train.share(ranks)
    plan = StreamPlan(index, "all", share.batch, seed=0, parts=train_tokenizer.PARTS[args.preset])
    return TokenizerTask(model, plan, loss, 0, share=share, ranks=ranks, workers=args.workers), train


def forecaster_task(args: Args, index: SceneIndex, ranks: Ranks, folder: Path) -> tuple[Task, TrainConfig]:
    """The forecaster's own recipe, on random tokens."""
    options = {"index": folder, "out": folder, "preset": args.preset, "batch": args.batch, "precision": args.precision}
    recipe_args = train_forecaster.Args(
        **options, tokens=folder, tokenizer=folder, accumulate=args.accumulate, iterations=args.warmup + args.steps
    )
    train, loss = train_forecaster.recipe(recipe_args, len(index.token), ranks.count)
    config, share = TOKENIZERS[args.preset](), train.share(ranks)
    tokenizer = Tokenizer(config).to(ranks.device).requires_grad_(False)
    model = Forecaster(for_tokenizer(FORECASTERS[args.preset](), config)).to(ranks.device)
    cache = TokenCache.create(folder / "tokens", index, "random", (config.latent, *config.latent_shape))
    for scene in index.scenes("all") if ranks.first else []:
        rng = np.random.default_rng(scene)
        shape = (len(index.frames(scene)), config.latent, *config.latent_shape)
        cache.write(scene, rng.standard_normal(shape, dtype=np.float32))
    ranks.wait()
    task = ForecasterTask(
        model,
        index,
        cache,
        "all",
        loss,
        batch=share.batch,
        iterations=train.iterations,
        seed=0,
        tokenizer=tokenizer if loss.occupancy_weight else None,
        read_labels=index.read_truth,
        share=share,
        ranks=ranks,
        workers=args.workers,
    )
    return task, train


def measure(trainer: Trainer, warmup: int, steps: int) -> dict[str, float]:
    """Samples a second over all processes, and the share of the time spent waiting for data."""
    portions, waited = trainer.task.batches(0, warmup + steps), 0.0

    def timed() -> Iterator[Any]:
        nonlocal waited
        for _ in range(trainer.share.portions):
            begin = time.perf_counter()
            portion = next(portions)
            waited += time.perf_counter() - begin
            yield portion

    begin, saved = time.perf_counter(), 0.0
    for step in range(warmup + steps):
        if step == warmup:
            _finish(trainer.device)
            begin, waited = time.perf_counter(), 0.0
        if step:
            trainer.step(timed())
        else:
            saved = saved_gb(lambda: trainer.step(timed()))
    _finish(trainer.device)
    took = time.perf_counter() - begin
    rate = steps * trainer.share.batch / took
    return {"samples_per_s": rate, "step_ms": 1e3 * took / steps, "wait": waited / took, "saved_gb": saved}


def saved_gb(step: Callable[[], Any]) -> float:
    """What is kept for the backward pass of a training step of one pass, in GB: the same on any device."""
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storages.values()) / 1e9


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(args: Args) -> dict[str, Any]:
    """Measure, print a line of Markdown, and return the figures."""
    keep_memory()
    index = SceneIndex.load(args.index or demo_root())
    make = tokenizer_task if args.model == "tokenizer" else forecaster_task
    with join(args.device) as ranks, tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        # Processes of one machine share the folder of the first one, which holds the random tokens.
        shared = [folder]
        if ranks.count > 1:
            torch.distributed.broadcast_object_list(shared, 0)
        task, train = make(args, index, ranks, Path(shared[0]))
        trainer = Trainer(task, train, Path(shared[0]), {}, ranks)
        figures: dict[str, Any] = measure(trainer, args.warmup, args.steps)
        ranks.wait()
        figures["peak_gpu_gb"] = trainer.peak_gb
        figures["peak_process_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        figures["parameters"] = sum(p.numel() for p in task.model.parameters())
        where = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else platform.processor()
        figures |= {
            "device": where or str(ranks.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        figures |= {"train": config_to_json(train), "batch": trainer.share.batch, "processes": ranks.count}
        if ranks.first:
            show(args, figures, str(trainer.dtype).removeprefix("torch."))
            if args.out:
                args.out.write_text(json.dumps({"args": _plain(args), **figures}, indent=1) + "\n")
    return figures


def show(args: Args, figures: dict[str, Any], dtype: str) -> None:
    """Print the figures as a table."""
    peak = "-" if figures["peak_gpu_gb"] is None else f"{figures['peak_gpu_gb']:.2f}"
    print(
        "| model | device | dtype | batch | samples/s | ms a step | waiting for data | saved GB | GPU GB | process GB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {args.model} {args.preset} | {figures['processes']} x {figures['device']} | {dtype} | {figures['batch']} "
        f"| {figures['samples_per_s']:.2f} | {figures['step_ms']:.0f} | {100 * figures['wait']:.1f} % "
        f"| {figures['saved_gb']:.2f} | {peak} "
        f"| {figures['peak_process_gb']:.2f} |"
    )


def _plain(args: Args) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(args).items()}


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except KeyboardInterrupt:
        sys.exit(130)
