"""Labels and ground that a world has never seen: is its forecast ever worse than moving what was observed?

Two measurements, each beside the ego warp and, as an ablation, without the self-check:

- frames held still: a keyframe of any label maker stands for all observed frames, the ego stands, nothing may change:
  mIoU with the frame itself 1, 2 and 3 s ahead, 100 is ideal, and the least share of the road that is kept at any
  height with 80 road voxels or more.
- other label makers: windows of held-out synthetic scenes, each redrawn in a style and on ground of its own
  (`world_model.data.label_styles`; the draws of this benchmark are those of no training).

    python benchmarks/unseen_labels.py --frames a/labels.npz b/labels.npz
    python benchmarks/unseen_labels.py --index data/synthetic
"""

from __future__ import annotations

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
from world_model.rollouts.rollout import roll
from world_model.worlds import World, build_world

PAST, STEPS, SHOWN, ROAD, LEAST_ROAD = 4, 6, (2, 4, 6), 11, 80
KINDS = ("plain", "hills", "styled", "styled hills")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare a learned world with the ego warp on labels that it was not trained on."""

    frames: tuple[Path, ...] = ()
    """Label files (semantics of Occ3D's convention) to hold still."""
    index: Path | None = None
    """Prepared flat synthetic data set whose held-out scenes are redrawn."""
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
    return {
        "ego warp": build_world("transport", device="cpu"),
        args.world: build_world(args.world, checkpoint=checkpoint, device="cpu"),
        f"{args.world}, no self-check": build_world(args.world, checkpoint=checkpoint, device="cpu", self_check=False),
    }


def forecast(world: World, clips: Clips) -> dict[int, Tensor]:
    """Labels by step along the poses of one clip."""
    pose = clips.ego_to_global[:, PAST:]
    motions = invert_pose(pose[:, 1 : STEPS + 1]) @ pose[:, :STEPS]
    return roll(world, clips, clips.command[:, PAST : PAST + STEPS], motions, decode=SHOWN).occupancy


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
            shown = forecast(world, clips)
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


def other_makers(args: Args, rows: dict[str, World]) -> Table:
    """Scores of every kind of labels, and 95 % intervals of the lead over the warp, over the scenes."""
    assert args.index is not None
    index, rng, cells = SceneIndex.load(args.index), np.random.default_rng(args.seed), []
    starts = windows(index, "val", PAST, STEPS)
    by_scene = [[f for f in starts if f in index.frames(scene)] for scene in index.scenes("val")[: args.scenes]]
    chosen = [int(rng.choice(frames)) for frames in by_scene if frames]
    for kind in KINDS:
        counts = np.zeros((len(rows), len(chosen), len(SHOWN), *Confusion().table.shape))
        for n, frame in enumerate(chosen):
            # Three in five as nuScenes writes its poses, after `prepare --poses auto`; the rest follow the ground.
            planar = bool(rng.random() < 0.6)
            clips, truth = redrawn(index, frame, style_of(kind, args.seed + 1000 * n), planar)
            for row, world in enumerate(rows.values()):
                shown = forecast(world, clips)
                for h, k in enumerate(SHOWN):
                    confusion = Confusion()
                    confusion.add(shown[k], truth[k])
                    counts[row, n, h] = confusion.table
            print(f"\r{kind}: {n + 1}/{len(chosen)} windows", end="", flush=True)
        print("\r\033[K", end="")
        lead = drawn_leads(counts, args.seed)
        for row, name in enumerate(rows):
            sums = [Confusion(counts[row, :, h].sum(0)) for h in range(len(SHOWN))]
            low_high = (
                " , ".join(f"{100 * a:.1f} .. {100 * b:.1f}" for a, b in interval_95(lead[:, row]).T) if row else "-"
            )
            cells.append(
                [
                    kind,
                    name,
                    " / ".join(f"{100 * each.miou():.1f}" for each in sums),
                    " / ".join(f"{100 * each.iou():.1f}" for each in sums),
                    low_high,
                ]
            )
    return Table(["labels", "world", "mIoU 1 / 2 / 3 s", "IoU 1 / 2 / 3 s", "mIoU - ego warp, 95 %"], cells)


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
    if args.index is not None:
        print(other_makers(args, rows).markdown())
    if not args.frames and args.index is None:
        print("nothing to do: give --frames or --index")


if __name__ == "__main__":
    main(tyro.cli(Args, prog="python benchmarks/unseen_labels.py"))
