"""Labels and ground that a world has never seen: is its forecast ever worse than moving what was observed?

Two measurements, each beside the ego warp and, as ablations, without the self-check and without riding on the road:

- frames held still: a keyframe of any label maker stands for all observed frames, the ego stands, nothing may change:
  mIoU with the frame itself 1, 2 and 3 s ahead, 100 is ideal, and the least share of the road that is kept at any
  height with 80 road voxels or more.
- other label makers: windows of held-out synthetic scenes, each redrawn in a style and on ground of its own
  (`world_model.data.label_styles`; the draws of this benchmark are those of no training); and of further data sets as
  they are (towns with hills, ScenarioNet, recordings).

From all windows together: do the forecast trust and the expected lead say where the world is worse than the ego warp?

    python benchmarks/unseen_labels.py --frames a/labels.npz b/labels.npz
    python benchmarks/unseen_labels.py --index data/synthetic --others data/hills data/scenarionet
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.core.grid import OCC3D
from world_model.core.table import Table
from world_model.data.clips import Clips, load_clips, windows
from world_model.data.index import SceneIndex
from world_model.data.label_styles import LabelStyle, draw_style, draw_terrain
from world_model.data.labels import read_labels
from world_model.evaluation.metrics import Confusion
from world_model.evaluation.statistics import interval_95, resampled
from world_model.rollouts.rollout import Rollout, roll
from world_model.trust import calibrated_trust
from world_model.worlds import SelfChecking, World, WorldState, build_world
from world_model.worlds.geometric import GeometricWorld

PAST, STEPS, SHOWN, ROAD, LEAST_ROAD = 4, 6, (2, 4, 6), 11, 80
KINDS = ("plain", "hills", "styled", "styled hills")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare a learned world with the ego warp on labels that it was not trained on."""

    frames: tuple[Path, ...] = ()
    """Label files (semantics of Occ3D's convention) to hold still."""
    index: Path | None = None
    """Prepared flat synthetic data set whose held-out scenes are redrawn."""
    others: tuple[Path, ...] = ()
    """Prepared data sets whose held-out scenes are taken as they are."""
    checkpoint: Path | None = None
    """Folder of a trained model; None: the bundled one."""
    world: str = "learned"
    """Which world to test."""
    scenes: int = 30
    """Held-out scenes, one window each."""
    seed: int = 0
    """Of the windows, styles and draws of the intervals."""


def worlds(args: Args) -> dict[str, World]:
    """The rows of all tables."""
    checkpoint = None if args.checkpoint is None else str(args.checkpoint)
    world = build_world(args.world, checkpoint=checkpoint, device="cpu")
    rows = {"ego warp": build_world("transport", device="cpu"), args.world: world}
    if isinstance(world, GeometricWorld):
        rows["no self-check"] = GeometricWorld(world.model, self_check=False)
        rows["level ego frames"] = GeometricWorld(world.model, rides=False)
    return rows


def forecast(world: World, clips: Clips) -> Rollout:
    """Along the poses of one clip."""
    pose = clips.ego_to_global[:, PAST:]
    motions = invert_pose(pose[:, 1 : STEPS + 1]) @ pose[:, :STEPS]
    return roll(world, clips, clips.command[:, PAST : PAST + STEPS], motions, decode=SHOWN, keep_states=True)


def still_clips(labels: NDArray[np.uint8]) -> Clips:
    """One frame as all observed frames of an ego that stands."""
    total = PAST + 1 + STEPS
    return Clips(
        occupancy=torch.from_numpy(labels)[None, None].repeat(1, PAST + 1, 1, 1, 1),
        ego_to_global=torch.eye(4, dtype=torch.float64).repeat(1, total, 1, 1),
        command=torch.full((1, total), 2),
        motion=torch.zeros(1, total, 3),
        dt_s=torch.full((1, total - 1), 0.5),
        valid=torch.ones(1, total, dtype=torch.bool),
        scene=[0],
        frame=[PAST],
    )


def hold_still(args: Args, rows: dict[str, World]) -> Table:
    """mIoU with the frame itself, and the road that is kept."""
    cells = []
    for path in args.frames:
        labels = np.array(read_labels(path))
        clips = still_clips(labels)
        road = [z for z in range(OCC3D.shape[2]) if (labels[:, :, z] == ROAD).sum() >= LEAST_ROAD]
        for name, world in rows.items():
            shown = forecast(world, clips).occupancy
            scores = []
            for k in SHOWN:
                confusion = Confusion()
                confusion.add(shown[k], torch.from_numpy(labels)[None])
                scores.append(f"{100 * confusion.miou():.1f}")
            last = shown[SHOWN[-1]][0].numpy()
            kept = [float((last[labels[:, :, z] == ROAD, z] == ROAD).mean()) for z in road]
            cells.append([str(path), name, " / ".join(scores), f"{100 * min(kept):.1f}" if kept else "-"])
    return Table(["frame", "world", "mIoU 1 / 2 / 3 s", "least road kept, 3 s, %"], cells)


def style_of(kind: str, seed: int) -> LabelStyle:
    """A label maker and a ground of a kind."""
    rng = np.random.default_rng([seed, 9000])
    if kind == "plain":
        return LabelStyle()
    if kind == "hills":
        return LabelStyle(seed=seed, terrain=draw_terrain(rng))
    return draw_style(rng, plain=0.0, flat=1.0 if kind == "styled" else 0.0)


def redrawn(index: SceneIndex, frame: int, style: LabelStyle, planar: bool) -> tuple[Clips, dict[int, Tensor]]:
    """A window in another style, and its true labels by step."""
    clips = load_clips(index, [frame], PAST, STEPS, True)
    assert clips.future_occupancy is not None
    frames = range(frame - PAST, frame + STEPS + 1)
    recorded = index.ego_to_global[list(frames)]
    plain = torch.cat((clips.occupancy[0], clips.future_occupancy[0])).numpy()
    drawn = np.stack([style.draw(plain[n], recorded[n], number) for n, number in enumerate(frames)])
    pose = torch.from_numpy(np.stack([style.pose(one, planar) for one in recorded]))
    labels = torch.from_numpy(drawn)
    changed = replace(clips, occupancy=labels[None, : PAST + 1], ego_to_global=pose[None], future_occupancy=None)
    return changed, {k: labels[None, PAST + k] for k in SHOWN}


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Held-out windows of one kind.

    Attributes:
        name: of the table's rows.
        index: the data set.
        frames, scenes: current frame and scene of each window.
        styles: in which each is redrawn.
        planar: whether its poses stay level.
    """

    name: str
    index: SceneIndex
    frames: list[int]
    scenes: list[int]
    styles: list[LabelStyle]
    planar: list[bool]

    def read(self, n: int) -> tuple[Clips, dict[int, Tensor]]:
        """Window n, and its true labels by step."""
        return redrawn(self.index, self.frames[n], self.styles[n], self.planar[n])


def windows_of(path: Path, most: int, least: int, rng: np.random.Generator) -> tuple[SceneIndex, list[int], list[int]]:
    """The data set, frames and scenes: one window of each scene, more of each where there are few scenes."""
    index = SceneIndex.load(path)
    starts = windows(index, "val", PAST, STEPS)
    by_scene = {scene: [f for f in starts if f in index.frames(scene)] for scene in index.scenes("val")[:most]}
    by_scene = {scene: frames for scene, frames in by_scene.items() if frames}
    each = -(-least // max(len(by_scene), 1))
    chosen = [
        (int(frame), scene)
        for scene, frames in by_scene.items()
        for frame in rng.choice(frames, min(each, len(frames)), replace=False)
    ]
    return index, [frame for frame, _ in chosen], [scene for _, scene in chosen]


def sets(args: Args) -> Iterator[Windows]:
    """All windows that the options ask for."""
    rng = np.random.default_rng(args.seed)
    if args.index is not None:
        index, frames, scenes = windows_of(args.index, args.scenes, 1, rng)
        for kind in KINDS:
            # Three in five as nuScenes writes its poses, after `prepare --poses auto`; the rest follow the ground.
            planar = (rng.random(len(frames)) < 0.6).tolist()
            styles = [style_of(kind, args.seed + 1000 * n) for n in range(len(frames))]
            yield Windows(name=kind, index=index, frames=frames, scenes=scenes, styles=styles, planar=planar)
    for path in args.others:
        index, frames, scenes = windows_of(path, args.scenes, args.scenes, rng)
        same, level = [LabelStyle()] * len(frames), [True] * len(frames)
        yield Windows(name=path.name, index=index, frames=frames, scenes=scenes, styles=same, planar=level)


def other_makers(args: Args, rows: dict[str, World]) -> list[Table]:
    """Scores of every kind of labels, and 95 % intervals of the lead over the warp, over the scenes; then the trust."""
    trust = calibrated_trust(rows[args.world], None if args.checkpoint is None else str(args.checkpoint))
    cells: list[list[str]] = []
    trusted: list[tuple[float, float, float]] = []
    for some in sets(args):
        counts = np.zeros((len(rows), len(some.frames), len(SHOWN), *Confusion().table.shape))
        for n in range(len(some.frames)):
            clips, truth = some.read(n)
            for row, (name, world) in enumerate(rows.items()):
                shown = forecast(world, clips)
                for h, k in enumerate(SHOWN):
                    confusion = Confusion()
                    confusion.add(shown.occupancy[k], truth[k])
                    counts[row, n, h] = confusion.table
                    if name == args.world and trust is not None:
                        above = confusion.iou() - Confusion(counts[0, n, h]).iou()
                        trusted.append((float(trust(shown.states[k])[0]), lead_of(world, shown.states[k]), above))
            print(f"\r{some.name}: {n + 1}/{len(some.frames)} windows", end="", flush=True)
        print("\r\033[K", end="")
        scene = np.array(some.scenes)
        lead = drawn_leads(np.stack([counts[:, scene == one].sum(1) for one in np.unique(scene)], 1), args.seed)
        for row, name in enumerate(rows):
            sums = [Confusion(counts[row, :, h].sum(0)) for h in range(len(SHOWN))]
            low_high = (
                " , ".join(f"{100 * a:.1f} .. {100 * b:.1f}" for a, b in interval_95(lead[:, row]).T) if row else "-"
            )
            cells.append(
                [
                    some.name,
                    name,
                    " / ".join(f"{100 * each.miou():.1f}" for each in sums),
                    " / ".join(f"{100 * each.iou():.1f}" for each in sums),
                    low_high,
                ]
            )
    table = Table(["labels", "world", "mIoU 1 / 2 / 3 s", "IoU 1 / 2 / 3 s", "mIoU - ego warp, 95 %"], cells)
    return [table, trust_table(np.array(trusted))] if trusted else [table]


def lead_of(world: World, state: WorldState) -> float:
    """The lead over the ego warp that a forecast expects of itself; 0 where it says nothing."""
    return float(world.self_check_figures(state)["expected_lead"][0]) if isinstance(world, SelfChecking) else 0.0


def trust_table(trusted: NDArray[np.float64]) -> Table:
    """AUROC for "worse than the ego warp"; forecasts are (N, 3): trust, expected lead, and the true lead in IoU."""
    cells = []
    for margin in (0.0, 0.005, 0.01):
        worse = trusted[:, 2] < -margin
        scores = (f"{auroc(-score, worse):.2f}" for score in trusted[:, :2].T)
        cells.append([f"> {100 * margin:g}", f"{worse.sum()} of {len(worse)}", *scores])
    return Table(["IoU below the ego warp, points", "forecasts", "AUROC of 1 - trust", "of -expected lead"], cells)


def auroc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the receiver operating characteristic; NaN without both kinds."""
    if positive.all() or not positive.any():
        return float("nan")
    above = score[positive][:, None] - score[~positive][None]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def drawn_leads(counts: NDArray[np.float64], seed: int, draws: int = 500) -> NDArray[np.float64]:
    """(D, R, H) lead in mIoU over the first row, in sets of scenes drawn with replacement."""
    leads = []
    for scenes in resampled(counts.shape[1], draws, seed):
        total = counts[:, scenes].sum(1)
        miou = np.array([[Confusion(total[r, h]).miou() for h in range(total.shape[1])] for r in range(len(total))])
        leads.append(miou - miou[:1])
    return np.stack(leads)


def main(args: Args) -> None:
    """Print the tables that the options ask for."""
    torch.set_num_threads(1)
    rows = worlds(args)
    if args.frames:
        print(hold_still(args, rows).markdown())
    if args.index is not None or args.others:
        for table in other_makers(args, rows):
            print(table.markdown())
    if not args.frames and args.index is None and not args.others:
        print("nothing to do: give --frames, --index or --others")


if __name__ == "__main__":
    main(tyro.cli(Args, prog="python benchmarks/unseen_labels.py"))
