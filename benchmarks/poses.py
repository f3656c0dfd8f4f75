"""How far the recorded poses of nuScenes lift or sink the road between keyframes, and how far planar poses do.

The file holds, for every keyframe of the 150 validation scenes, the transforms of the next steps: (6036, 12, 4, 4),
current ego frame -> next ego frame, made of the raw poses (z = 0, real pitch and roll). Two measurements:

- plane: a point of the plane under the ego, 10 m ahead; its height in the frame of a later keyframe should be 0, and is
  0 with planar poses.
- profile: the true height of that point comes from the climb of the drive itself. Because z stays 0, a step with
  displacement t in the ego frame climbs at the angle atan(-t_z / |t_xy|); their sum along the drive is the road's
  profile. Only windows count that never stand still and get 10 m far.
  The pitch of the braking body is part of both errors.

    python benchmarks/poses.py --windows DATA/curr_to_future_ego_rts.npz
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

KEYFRAMES, STEPS, AHEAD_M, SHOWN_M = 6019, 6, 10.0, 0.2
LEAST_STEP_M = 0.5


@dataclass(frozen=True, kw_only=True)
class Args:
    """Print the errors of a road point 10 m ahead after 1, 2 and 3 s: median, and share above 0.2 m."""

    windows: Path
    """curr_to_future_ego_rts.npz of the original's repository."""


def plane_errors(to_next: NDArray[Any]) -> NDArray[Any]:
    """Heights (N, STEPS) after every step of a point at (10, 0, 0) of the first ego frame; to_next (N, STEPS, 4, 4)."""
    point = np.tile((AHEAD_M, 0.0, 0.0, 1.0), (len(to_next), 1))
    heights = []
    for k in range(STEPS):
        point = np.einsum("nij,nj->ni", to_next[:, k], point)
        heights.append(point[:, 2])
    return np.stack(heights, 1)


def profile_errors(to_next: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Errors (M, STEPS) of raw and of planar poses against the profile of the road, in M windows that are driven."""
    moved = -np.einsum("nkji,nkj->nki", to_next[..., :3, :3], to_next[..., :3, 3])
    length = np.linalg.norm(moved, axis=2)
    driven = (moved[..., 0] > LEAST_STEP_M).all(1) & (length.sum(1) > AHEAD_M)
    to_next, moved, length = to_next[driven], moved[driven], length[driven]
    slope = -moved[..., 2] / np.linalg.norm(moved[..., :2], axis=2)
    slope = np.concatenate((slope, slope[:, -1:]), 1)  # the last frame has no step of its own
    first = np.zeros((len(slope), 1))
    way = np.concatenate((first, length.cumsum(1)), 1)
    height = np.concatenate((first, ((slope[:, 1:] + slope[:, :-1]) / 2 * length).cumsum(1)), 1)
    road = np.array([np.interp(AHEAD_M, way[i], height[i]) for i in range(len(way))])
    seen = road - slope[:, 0] * AHEAD_M  # height of the road point in the first ego frame, as a label shows it
    point = np.stack((np.full_like(seen, AHEAD_M), np.zeros_like(seen), seen, np.ones_like(seen)), 1)
    raw, planar = [], []
    for k in range(STEPS):
        point = np.einsum("nij,nj->ni", to_next[:, k], point)
        true = road - height[:, k + 1] - slope[:, k + 1] * (AHEAD_M - way[:, k + 1])
        raw.append(point[:, 2] - true)
        planar.append(seen - true)
    return np.stack(raw, 1), np.stack(planar, 1)


def main() -> None:
    """Command line."""
    args = tyro.cli(Args)
    with np.load(args.windows, allow_pickle=False) as archive:
        to_next = archive["curr_to_future_ego_rts"][:KEYFRAMES, :STEPS].astype(np.float64)
    raw, planar = profile_errors(to_next)
    tables = {
        f"plane under the ego, raw ({len(to_next)} windows)": plane_errors(to_next),
        f"profile of the road, raw ({len(raw)} windows)": raw,
        f"profile of the road, planar ({len(planar)} windows)": planar,
    }
    for name, errors in tables.items():
        after = np.abs(errors[:, 1::2])
        cells = (f"{k + 1} s {np.median(e):.3f} m, {(e > SHOWN_M).mean():5.1%}" for k, e in enumerate(after.T))
        print(f"{name:<45} " + "; ".join(cells))


if __name__ == "__main__":
    main()
