"""Others in the geometric world, beside the simulator: do they stay whole, where do they go, do they answer?

- whole: share of moving cars that have 80 % of their voxels after 8 s along the log, in the box of their track; of the
  cars that have them in the data.
- displacement: mean error of moving vehicles up to 3 s and 8 s, from the boxes of the current frame, of the likeliest
  future, and the least of six drawn ones. Means with 95 % intervals over scenes.
- answer: the ego brakes hard. Which vehicles lose more than 1.5 m/s within 3 s, in the simulator and here?

    python benchmarks/traffic.py --index data/synthetic --picture traffic.png
    python benchmarks/traffic.py --index data/synthetic --parts displacement answer --driver runs/driver
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from world_model.checkpoints.driver import shared_driver
from world_model.core.geometry import invert_pose, planar_pose, se2_matrix
from world_model.core.grid import CLASS_ID, FREE, OCC3D, VoxelGrid
from world_model.data.boxes import voxels_inside
from world_model.data.clips import load_clips, scene_of
from world_model.data.index import Boxes, SceneIndex
from world_model.evaluation.forecasting.scene_data import PAST
from world_model.evaluation.statistics import mean_interval
from world_model.models.geometric.agents.bodies import columns_in
from world_model.models.geometric.agents.boxes import boxes_before, tracks_of_boxes
from world_model.models.geometric.agents.driver_net import DriverNet, drive_on
from world_model.models.geometric.agents.drivers import EgoMotion, StyleKind, Styles, react, road_of
from world_model.models.geometric.agents.segments import small_classes
from world_model.models.geometric.agents.tracks import Tracks
from world_model.models.geometric.evidence import is_movable
from world_model.pictures.bev import birds_eye
from world_model.pictures.strip import strip
from world_model.pictures.video import write_png
from world_model.simulator import Simulator
from world_model.simulator.dataset.rebuild import recorded_state
from world_model.simulator.traffic.wild import arc_step
from world_model.worlds import agents_of, build_world

CAR, STEPS, SHORT, DROP_MPS, BRAKE_MPS2 = CLASS_ID["car"], 16, 6, 1.5, -6.0
TRAFFIC = ("constant-velocity", "rigid", "log-like")
STRAIGHT = torch.tensor([2])
NAMES = ("constant velocity", "rigid", "log-like", "least of 6 drawn", "log-like less constant")
"""Rows of the table of displacements."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the traffic of the geometric world."""

    index: Path
    """Prepared synthetic data set."""
    split: str = "val"
    """Its scenes."""
    scenes: int | None = None
    """At most so many of them."""
    stride: int = 8
    """Every so many frames of a scene are a start."""
    parts: tuple[Literal["whole", "displacement", "answer"], ...] = ("whole", "displacement", "answer")
    """What to measure."""
    driver: str = "learned"
    """Who drives the others: learned (the bundled driver), idm, or a folder of `world_model.train_driver`."""
    picture: Path | None = None
    """Also draw a braking ego with a follower."""


def starts(index: SceneIndex, args: Args) -> list[int]:
    scenes = index.scenes(args.split)[: args.scenes]
    return [f for s in scenes for f in list(index.frames(s))[PAST : len(index.frames(s)) - STEPS : args.stride]]


def voxels(boxes: Boxes, number: int, labels: Tensor) -> int:
    """Car voxels in a box."""
    return int((labels[tuple(voxels_inside(boxes, number, OCC3D, 0.2).T)] == CAR).sum())


def own_voxels(labels: Tensor, tracks: Tracks, slot: int) -> int:
    """Car voxels (of labels (1, X, Y, Z)) in the box of a track."""
    columns = columns_in(tracks, torch.tensor([slot]), OCC3D, 0.4).column
    return int((labels.reshape(-1, labels.shape[-1])[columns] == CAR).sum())


def whole(index: SceneIndex, frames: Sequence[int], traffic: str) -> list[float]:
    """Shares of their voxels that moving cars have after 8 s."""
    world, shares = build_world("geometric", device="cpu", traffic=traffic), []
    for frame in frames:
        clips = load_clips(index, [frame], PAST, STEPS, True)
        pose = clips.ego_to_global[0, PAST:]
        state = world.reset(clips)
        first, before = agents_of(world, state), world.occupancy(state)
        for k in range(STEPS):
            state = world.step(state, (invert_pose(pose[k + 1 : k + 2]) @ pose[k : k + 1]).float(), STRAIGHT)
        last, after = agents_of(world, state), world.occupancy(state)
        now, then = index.boxes(frame), index.boxes(frame + STEPS)
        for slot in torch.nonzero(first.moving[0] & (first.class_id[0] == CAR))[:, 0].tolist():
            away = np.hypot(now.center_m[:, 0] - float(first.x[0, slot]), now.center_m[:, 1] - float(first.y[0, slot]))
            n = int(away.argmin())
            row = np.flatnonzero(then.instance == now.instance[n])
            reach = 39.5 - float(first.length[0, slot]) / 2
            if away[n] > 1.5 or now.class_id[n] != CAR or not len(row):
                continue
            seen = voxels(now, n, clips.occupancy[0, -1])
            assert clips.future_occupancy is not None
            still = voxels(then, int(row[0]), clips.future_occupancy[0, -1])
            inside = max(abs(float(last.x[0, slot])), abs(float(last.y[0, slot]))) < reach
            if seen >= 20 and still >= 0.8 * seen and inside:
                shares.append(own_voxels(after, last, slot) / max(own_voxels(before, first, slot), 1))
    return shares


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Boxes of a start as tracks, the road, and which instance each slot is."""

    tracks: Tracks
    still: Tensor
    instances: list[int]


def scene_of_boxes(index: SceneIndex, frame: int) -> Scene:
    labels, boxes = torch.from_numpy(np.array(index.read_labels(frame, OCC3D.shape)))[None], index.boxes(frame)
    tracks = tracks_of_boxes(labels, [boxes], OCC3D, [boxes_before(index, frame)]).tracks
    place = torch.stack((tracks.x[0], tracks.y[0]), 1)[tracks.alive[0]].numpy()
    away = np.linalg.norm(boxes.center_m[None, :, :2] - place[:, None], axis=2)
    instances = [int(boxes.instance[n]) for n in away.argmin(1)] if len(place) else []
    return Scene(tracks=tracks, still=labels.masked_fill(is_movable(labels), FREE), instances=instances)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How the others are forecast.

    Attributes:
        name: for the table.
        reacts: whether they answer; else they keep their speed.
        turns: whether those who do not answer turn as they did.
        net: the learned driver; None: the Intelligent Driver Model.
        seed: of the drawn drivers; None: the most likely ones.
        told: whether they know of the ego.
    """

    name: str
    reacts: bool = True
    turns: bool = False
    net: DriverNet | None = None
    seed: int | None = None
    told: bool = True


STILL = Forecast(name="constant velocity", reacts=False)


def driven(scene: Scene, motions: NDArray[Any], how: Forecast) -> list[Tracks]:
    """Tracks step by step while the ego makes motions (K, 3)."""
    tracks, road = scene.tracks, road_of(scene.still, scene.still, OCC3D)
    styles = Styles.observed(tracks)
    if how.seed is not None:
        styles = Styles.drawn(tracks, torch.tensor([how.seed]), StyleKind())
    pose, found = torch.eye(4, dtype=torch.float64)[None], []
    for motion in motions:
        x, y, yaw = (part.float() for part in planar_pose(pose).unbind(-1))
        speed = torch.tensor([max(float(motion[0]), 0.0) / 0.5])
        ego = EgoMotion(x=x, y=y, yaw=yaw, speed=speed)
        ego = ego if how.told else EgoMotion(x=x - 1e4, y=y, yaw=yaw, speed=speed * 0)
        if not how.reacts:
            tracks = tracks.coasted(0.5) if how.turns else replace(tracks, yaw_rate=tracks.yaw_rate * 0).advanced(0.5)
        elif how.net is None:
            tracks = react(tracks, styles, ego, road, OCC3D)
        else:
            tracks = drive_on(how.net, tracks, styles, ego, road, OCC3D)
        pose = pose @ se2_matrix(*torch.from_numpy(np.asarray(motion, np.float64)))[None]
        found.append(tracks)
    return found


def log_motions(index: SceneIndex, frame: int, steps: int) -> NDArray[Any]:
    pose = torch.from_numpy(index.ego_to_global[frame : frame + steps + 1])
    return planar_pose(invert_pose(pose[:-1]) @ pose[1:]).numpy()


def errors(index: SceneIndex, frame: int, ways: Sequence[Forecast]) -> NDArray[Any]:
    """(N, W, 2) mean displacement errors of N moving vehicles up to 3 s and 8 s, NaN where they leave the recording."""
    scene, base = scene_of_boxes(index, frame), invert_pose(torch.from_numpy(index.ego_to_global[frame]))
    vehicle = scene.tracks.moving & ~small_classes(scene.tracks.x.device)[scene.tracks.class_id.long()]
    true = np.full((len(scene.instances), STEPS, 2), np.nan)
    for k in range(STEPS):
        boxes, move = index.boxes(frame + k + 1), (base @ torch.from_numpy(index.ego_to_global[frame + k + 1])).numpy()
        place = boxes.center_m @ move[:3, :3].T + move[:3, 3]
        rows = {int(number): row for row, number in enumerate(boxes.instance)}
        for slot, number in enumerate(scene.instances):
            if number in rows:
                true[slot, k] = place[rows[number], :2]
    columns, motions = [], log_motions(index, frame, STEPS)
    for how in ways:
        found = np.stack([torch.stack((t.x[0], t.y[0]), -1).numpy() for t in driven(scene, motions, how)], 1)
        away = np.linalg.norm(found[: len(true)] - true, axis=-1)
        columns.append(np.stack([away[:, :k].mean(1) for k in (SHORT, STEPS)], -1))
    return np.stack(columns, 1)[vehicle[0, : len(true)].numpy()]


def report_errors(index: SceneIndex, args: Args, net: DriverNet | None) -> None:
    drawn = [Forecast(name="", net=net, seed=seed) for seed in range(6)]
    ways = [STILL, Forecast(name="rigid", reacts=False, turns=True), Forecast(name="log-like", net=net), *drawn]
    by_scene: dict[int, list[NDArray[Any]]] = {}
    for frame in starts(index, args):
        by_scene.setdefault(scene_of(index, frame), []).append(errors(index, frame, ways))
    for k, seconds in enumerate((SHORT // 2, STEPS // 2)):
        scenes = []
        for parts in by_scene.values():
            rows = np.concatenate(parts)[:, :, k]
            rows = rows[np.isfinite(rows).all(1)]
            scenes.append(np.column_stack((rows[:, :3], rows[:, 3:].min(1), rows[:, 2] - rows[:, 0])))
        figures = mean_interval([scene for scene in scenes if len(scene)])
        count = sum(len(scene) for scene in scenes)
        for name, (mean, low, high) in zip(
            ("constant velocity", "rigid", "log-like", "least of 6 drawn", "log-like, more"), figures
        ):
            print(
                f"displacement {seconds} s, {count} vehicles: {name:22s} {mean:.2f} [{low:.2f}, {high:.2f}] m",
                flush=True,
            )


def answers(index: SceneIndex, frame: int, how: Forecast) -> NDArray[Any]:
    """(N, 7) of moving vehicles: speed, its speeds after 3 s in the simulator (log, brake), here (log, brake), and
    without being told (brake), and whether it is behind the ego."""
    simulator, start = Simulator(), recorded_state(index, frame)
    speed, brake = start.ego.speed, []
    if speed < 3:
        return np.zeros((0, 7))
    for _ in range(SHORT):
        motion, speed = arc_step(speed, BRAKE_MPS2, 0.0)
        brake.append(motion)
    arms, scene, columns = (log_motions(index, frame, SHORT), np.array(brake)), scene_of_boxes(index, frame), []
    for motions in arms:
        state = start
        for motion in motions:
            state = simulator.move(state, motion)
        columns.append(state.motion.speed)
    blind = replace(how, told=False)
    here = [driven(scene, m, way)[-1].speed[0].numpy() for m, way in ((arms[0], how), (arms[1], how), (arms[1], blind))]
    first, rows = simulator.boxes(start), []
    for slot in torch.nonzero(scene.tracks.moving[0] & (scene.tracks.class_id[0] != CLASS_ID["pedestrian"]))[:, 0]:
        x, y = float(scene.tracks.x[0, slot]), float(scene.tracks.y[0, slot])
        away = np.hypot(first["center"][:, 0] - x, first["center"][:, 1] - y)
        if away.min() < 0.6:
            agent = first["instance"][away.argmin()]
            own = [float(arm[agent]) for arm in columns] + [float(arm[slot]) for arm in here]
            rows.append((float(scene.tracks.speed[0, slot]), *own, float(x < 0 and abs(y) < 4)))
    return np.array(rows).reshape(-1, 7)


def f1(true: NDArray[Any], found: NDArray[Any]) -> float:
    return 2 * float((true & found).sum()) / max(int(true.sum() + found.sum()), 1)


def report_answers(table: NDArray[Any]) -> None:
    before, sim_log, sim, log, brake, blind, behind = table.T
    affected, braked, rear = np.abs(sim_log - sim) > 1.0, before - sim > DROP_MPS, behind > 0
    print(f"answer: {len(table)} vehicles, {affected.sum()} affected, {(braked & rear).sum()} brake behind the ego")
    for name, mine in (("constant velocity", before), ("not told of the ego", blind), ("told", brake)):
        mean = np.abs(mine - sim)[affected].mean() if affected.any() else np.nan
        score = f1((braked & rear), (before - mine > DROP_MPS) & rear)
        print(f"  {name:18s} speed error of the affected {mean:.2f} m/s, braking behind the ego F1 {score:.2f}")
    found = np.abs(log - brake) > 1.0
    precision, recall = (
        (affected & found).sum() / max(found.sum(), 1),
        (affected & found).sum() / max(affected.sum(), 1),
    )
    print(f"  affected or not, F1 {f1(affected, found):.2f} (precision {precision:.2f}, recall {recall:.2f})")


def picture(index: SceneIndex, frames: Sequence[int], path: Path) -> None:
    """The ego brakes to a stop in the busiest start with a follower."""

    def followed(frame: int) -> bool:
        boxes = index.boxes(frame)
        x, y = boxes.center_m[:, 0], boxes.center_m[:, 1]
        behind = (np.abs(y) < 1.5) & (x < -8) & (x > -22) & (boxes.velocity_mps[:, 0] > 4)
        return bool((behind & (boxes.class_id == CAR)).any()) and float(index.motion[frame][0]) > 5

    fitting = [frame for frame in frames if followed(frame)]
    if not fitting:
        print("no start with a follower: no picture")
        return
    frame = max(fitting, key=lambda f: int((np.linalg.norm(index.boxes(f).velocity_mps, axis=1) > 1).sum()))
    near = VoxelGrid(shape=(180, 80, 16), lower_m=(-36.0, -16.0, -1.0))
    rows = []
    for name in ("simulated", *reversed(TRAFFIC)):
        traffic = {"traffic": name} if name in TRAFFIC else {}
        world = build_world("geometric" if traffic else name, device="cpu", **traffic)
        state, speed = world.reset(load_clips(index, [frame], PAST, STEPS, True)), float(index.motion[frame][0])
        shown = [world.occupancy(state)]
        for k in range(1, 13):
            motion, speed = arc_step(speed, -3.5, 0.0)
            state = world.step(state, invert_pose(se2_matrix(*torch.tensor(motion)))[None].float(), STRAIGHT)
            shown += [world.occupancy(state)] if k % 3 == 0 else []
        rows.append([birds_eye(labels[0, 10:190, 60:140].numpy(), grid=near) for labels in shown])
    labels = ("simulator", *reversed(TRAFFIC))
    title = "The ego vehicle brakes to a stop; a car follows it"
    write_png(path, strip(rows, columns=("now", "1.5 s", "3 s", "4.5 s", "6 s"), labels=labels, title=title))


@torch.no_grad()
def main(args: Args) -> None:
    """Measure and print."""
    index = SceneIndex.load(args.index)
    frames = starts(index, args)
    net = None if args.driver == "idm" else shared_driver(None if args.driver == "learned" else args.driver)
    for traffic in TRAFFIC if "whole" in args.parts else ():
        shares = np.array(whole(index, frames, traffic))
        print(f"whole: {traffic:18s} {int((shares >= 0.8).sum())} of {len(shares)} cars", flush=True)
    if "displacement" in args.parts:
        report_errors(index, args, net)
    if "answer" in args.parts:
        how = Forecast(name="log-like", net=net)
        report_answers(np.concatenate([answers(index, frame, how) for frame in frames]))
    if args.picture is not None:
        picture(index, frames, args.picture)


if __name__ == "__main__":
    main(tyro.cli(Args, description=Args.__doc__))
