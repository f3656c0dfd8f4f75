"""Small training runs for tests: a 16 x 16 m grid, models of a few thousand parameters, random tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_scenes import write_scenes

from world_model.checkpoints.checkpoint import TOKENIZER_FILE, save_model
from world_model.data.index import SceneIndex
from world_model.data.streams import StreamPlan
from world_model.data.tokens import TokenCache
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster.config import tiny as tiny_forecaster
from world_model.models.forecaster.training import ForecasterLossConfig, ForecasterTask
from world_model.models.tokenizer import TINY_GRID, Tokenizer, tiny
from world_model.models.tokenizer.training import TokenizerLossConfig, TokenizerTask
from world_model.prepare import Prepare, prepare
from world_model.training.distributed import DistributedContext
from world_model.training.loop import TrainConfig, Trainer
from world_model.training.optim import OptimConfig

ALONE = DistributedContext(device=torch.device("cpu"))


def write_data(root: Path) -> SceneIndex:
    """Two scenes of 16 and 14 frames."""
    write_scenes(root, frames=(16, 14))
    prepare(Prepare(data_root=root))
    return SceneIndex.load(root)


def write_tokens(folder: Path, index: SceneIndex) -> TokenCache:
    """Random tokens of the right shape: smooth along the scene, so that there is something to learn."""
    config = tiny(TINY_GRID)
    shape = (config.latent, *config.latent_shape)
    cache = TokenCache.create(folder, index, "random", shape)
    for scene in index.scenes("all"):
        rng = np.random.default_rng([scene, 3])
        walk = rng.normal(size=(len(index.frames(scene)), *shape)).cumsum(0)
        cache.write(scene, (walk / np.sqrt(np.arange(1, len(walk) + 1))[:, None, None, None]).astype(np.float32))
    return cache


def write_tokenizer(folder: Path) -> Path:
    """A tiny tokenizer with random weights, as a checkpoint."""
    torch.manual_seed(1)
    model = Tokenizer(tiny(TINY_GRID))
    save_model(folder / TOKENIZER_FILE, model, model.state_dict(), {"data_source": "synthetic"})
    return folder


def config_of(iterations: int = 4, **changes: Any) -> TrainConfig:
    """A short run that reports every step; the schedule reaches its drop."""
    optim = OptimConfig(learning_rate=2e-3, warmup=2, ema=0.9)
    return replace(TrainConfig(iterations=iterations, batch=4, log_every=1, optim=optim), **changes)


def train_tokenizer(
    index: SceneIndex,
    out: Path,
    config: TrainConfig,
    context: DistributedContext = ALONE,
    *,
    voxels: int = 0,
    seed: int = 0,
) -> Trainer:
    """Train a tiny tokenizer; every coupling between samples is on: Lovász, revival of codes, sampled voxels."""
    torch.manual_seed(seed)
    model = Tokenizer(tiny(TINY_GRID))
    shard = config.shard(context)
    plan = StreamPlan(index, "all", shard.batch, seed, parts=2, grid=TINY_GRID)
    loss = TokenizerLossConfig(voxels=voxels, revive_every=2)
    trainer = Trainer(
        TokenizerTask(model, plan, loss, seed=seed, shard=shard, context=context),
        config,
        out,
        {"train": config.identity(shard)},
    )
    trainer.run()
    return trainer


def train_forecaster(
    index: SceneIndex,
    cache: TokenCache,
    out: Path,
    config: TrainConfig,
    context: DistributedContext = ALONE,
    *,
    faithful: bool = False,
    seed: int = 0,
) -> Trainer:
    """Train a tiny forecaster: BatchNorm, scheduled sampling, one decoded step (not if faithful)."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(tiny(TINY_GRID)).requires_grad_(False)
    model = Forecaster(replace(tiny_forecaster(), faithful=faithful, transport=not faithful))
    loss = ForecasterLossConfig(through_time=faithful, occupancy_weight=0.0 if faithful else 1.0, voxels=800)
    shard = config.shard(context)
    task = ForecasterTask(
        model,
        index,
        cache,
        "all",
        loss,
        iterations=config.iterations,
        seed=seed,
        tokenizer=tokenizer,
        read_labels=lambda frame: index.read_truth(frame, TINY_GRID.shape),
        shard=shard,
        context=context,
    )
    trainer = Trainer(task, config, out, {"train": config.identity(shard)})
    trainer.run()
    return trainer


def curve(trainer: Trainer, name: str = "loss") -> list[float]:
    """Loss (or another logged value) of every step."""
    return [row[name] for row in trainer.rows]
