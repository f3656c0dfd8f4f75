"""Train the driver of other road users on the simulator's traffic: ``python -m world_model.train_driver``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_model.checkpoints.checkpoint import DRIVER_FILE, save_model
from world_model.core.command import run
from world_model.core.files import check_writable, write_npz
from world_model.core.grid import CLASS_ID, OCC3D, STEP_S
from world_model.models.geometric.agents.driver_net import ACCEL_MPS2, DriverNet, features_of
from world_model.models.geometric.agents.drivers import EgoMotion, Road, Styles, around
from world_model.models.geometric.agents.tracks import Tracks, wrapped
from world_model.simulator.dataset.drives import Drive, drives
from world_model.training.command import RESUMES
from world_model.training.distributed import DistributedContext, join
from world_model.training.loop import TrainConfig, Trainer
from world_model.training.optim import OptimConfig
from world_model.training.task import Loss, Task

BLIND_M = (12.0, 60.0)
"""Beyond a distance drawn from this range no road is known in a drive: observed frames show parts of it."""
TURNS_UNKNOWN = 0.3
"""Share of the drives in which no turn is known, as where tracks have just been found."""
SHORTEST_M = 0.3
"""Way in a step from which its curvature is known."""
HARDEST_MPS2 = 9.0


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train the learned driver on traffic of the simulator, beside an ego that brakes, stops, wanders and swerves.

    Runs resume by themselves: give the same command again. The result is OUT/driver.safetensors.
    """

    out: Path
    """Folder for the drives, the checkpoint, the log and the file to resume from."""
    seed: int = 515
    """Of the towns, the drives and the training."""
    scenes: int = 240
    """Scenes to learn from."""
    iterations: int = 3000
    """Optimizer steps."""
    batch: int = 2048
    """Road users of one step."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    tell_ego: bool = True
    """Whether the driver knows the ego and what it does; off as a control."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    save_every: int = 500
    """Iterations between checkpoints."""
    log_every: int = 250
    """Iterations between lines of progress."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """N steps of road users: features (N, F), the same without an ego, what they did (N, 2) as m/s² and 1/m, and which
    of both is known."""

    read: Tensor
    blind: Tensor
    done: Tensor
    known: Tensor


def steps_of(drive: Drive, generator: torch.Generator) -> Steps:
    """The steps of those who were under way at the beginning of a drive."""
    start = drive.tracks[0]
    count = len(drive.ego)
    now, after = (Tracks.cat(part) for part in (drive.tracks[:-1], drive.tracks[1:]))
    ego = EgoMotion(**{f.name: torch.cat([getattr(one, f.name) for one in drive.ego]) for f in fields(EgoMotion)})
    low, high = BLIND_M
    reach = low + (high - low) * float(torch.rand((), generator=generator))
    road = Road(off=around(~drive.road[None] & _within(reach), OCC3D))
    styles = Styles.observed(start).expand(count)
    if float(torch.rand((), generator=generator)) < TURNS_UNKNOWN:
        now = replace(now, yaw_rate=torch.zeros_like(now.yaw_rate))
    roads = Road(off=road.off.expand(count, -1, -1))
    read, blind = (features_of(now, styles, one, roads, OCC3D) for one in (ego, away(ego)))
    accel = (after.speed - now.speed) / STEP_S
    way = (after.speed + now.speed) / 2 * STEP_S
    turn = wrapped(after.yaw - now.yaw)
    done = torch.stack((accel, turn / way.clamp(min=SHORTEST_M)), -1)
    # Those who were taken away or leave the street at a map's end are no examples.
    valid = (start.moving & (start.speed > 0.3)).expand_as(now.alive) & (accel.abs() < HARDEST_MPS2)
    valid &= torch.hypot(after.x - now.x, after.y - now.y) < 12
    turns = (way > SHORTEST_M) & (done[..., 1].abs() < 0.3)
    known = torch.stack((torch.ones_like(turns), turns), -1)
    # Pedestrians are many: every fourth counts.
    rare = torch.rand(now.x.shape, generator=generator) < 0.25
    valid &= (now.class_id != CLASS_ID["pedestrian"]) | rare
    return Steps(read=read[valid].half(), blind=blind[valid].half(), done=done[valid], known=known[valid])


def away(ego: EgoMotion) -> EgoMotion:
    """An ego out of reach of everyone."""
    return EgoMotion(x=ego.x * 0 - 1e4, y=ego.y, yaw=ego.yaw, speed=ego.speed * 0)


def _within(reach_m: float) -> Tensor:
    x = torch.arange(OCC3D.shape[0], dtype=torch.float32) * OCC3D.voxel_m + OCC3D.lower_m[0]
    return torch.hypot(x[:, None], x) < reach_m


def collect(args: Args) -> Steps:
    """All steps to learn from; read from OUT where an earlier call has written them."""
    path = args.out / f"drives-{args.seed}-{args.scenes}.npz"
    if not path.exists():
        parts = list[Steps]()
        for scene in range(args.scenes):
            generator = torch.Generator().manual_seed(args.seed * 100_003 + scene)
            parts += [steps_of(one, generator) for one in drives(args.seed, scene)]
            if scene % 20 == 19:
                print(f"  {scene + 1}/{args.scenes} scenes, {sum(len(p.read) for p in parts):,} steps", flush=True)
        write_npz(path, **{f.name: torch.cat([getattr(p, f.name) for p in parts]).numpy() for f in fields(Steps)})
    with np.load(path) as file:
        return Steps(**{f.name: torch.from_numpy(file[f.name]) for f in fields(Steps)})


class DriverTask(Task):
    """Likelihood of what road users did.

    Args:
        model: the driver.
        steps: to learn from.
        tell_ego: whether it reads of the ego.
        rest: see `Task`.
    """

    model: DriverNet

    def __init__(self, model: DriverNet, steps: Steps, *, tell_ego: bool, **rest: Any) -> None:
        super().__init__(model, **rest)
        self.steps, self.tell_ego = steps, tell_ego

    @property
    def heavy(self) -> list[torch.nn.Module]:
        """Nothing is heavy."""
        return []

    def read(self, iteration: int, samples: range) -> Steps:
        """Some steps, drawn by number."""
        rng = np.random.default_rng([self.seed, iteration, samples.start])
        rows = torch.from_numpy(rng.integers(len(self.steps.read), size=len(samples)))
        return Steps(**{f.name: getattr(self.steps, f.name)[rows] for f in fields(Steps)})

    def loss(self, batch: Steps, iteration: int, micro: int = 0) -> Loss:
        """Mean negative log likelihood, and how far off the likeliest answer is."""
        read = (batch.read if self.tell_ego else batch.blind).float()
        choice = self.model(read)
        loss = choice.negative_log_likelihood(batch.done, batch.known).mean()
        with torch.no_grad():
            off = (choice.taken(torch.full_like(batch.done[:, 0], float("nan"))) - batch.done).abs()
            model = (read[:, 0] * ACCEL_MPS2 - batch.done[:, 0]).abs().mean()
        return loss, {"nll": loss.detach(), "accel_mps2": off[:, 0].mean(), "idm_mps2": model}


def train(args: Args, context: DistributedContext) -> None:
    """Collect, train, write."""
    check_writable(args.out)
    steps = collect(args)
    torch.manual_seed(args.seed)
    model = DriverNet().to(context.device)
    optim = OptimConfig(learning_rate=args.learning_rate, schedule="cosine", warmup=50, ema=0.995)
    config = TrainConfig(
        iterations=args.iterations,
        batch=args.batch,
        seed=args.seed,
        save_every=args.save_every,
        log_every=args.log_every,
        precision="float32",
        optim=optim,
    )
    shard = config.shard(context)
    task = DriverTask(model, steps, tell_ego=args.tell_ego, seed=args.seed, shard=shard, context=context, workers=1)
    card = {"data": f"simulator, seed {args.seed}, {args.scenes} scenes", "data_source": "synthetic"}
    identity = {"train": config.identity(shard), "scenes": args.scenes, "tell_ego": args.tell_ego, **card}
    print(f"driver: {sum(p.numel() for p in model.parameters()):,} parameters, {len(steps.read):,} steps", flush=True)
    trainer = Trainer(task, config, args.out, identity)
    trainer.run()
    path = save_model(args.out / DRIVER_FILE, model, trainer.average.weights, {**card, **trainer.card()})
    print(f"checkpoint: {path}", flush=True)


def main(args: Args) -> Path:
    """Train, and return the folder of the checkpoint."""
    with join(args.device) as context:
        train(args, context)
    return args.out


if __name__ == "__main__":
    run(Args, main, "python -m world_model.train_driver", resumes=RESUMES)
