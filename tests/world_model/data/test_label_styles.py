"""Label styles: deterministic, fixed in the world, heights that the poses explain."""

from __future__ import annotations

import numpy as np
import torch
from street import SMALL, street

from world_model.core.geometry import invert_pose, se2_matrix
from world_model.core.grid import FREE
from world_model.data.label_styles import LabelStyle, Terrain, draw_style, draw_terrain
from world_model.models.geometric.evidence import column_move

PLAIN = street(SMALL)
START = np.eye(4)


def ahead(metres: float) -> np.ndarray:
    at = torch.tensor(metres, dtype=torch.float64)
    return np.asarray(se2_matrix(at, torch.zeros_like(at), torch.zeros_like(at)))


def test_the_plain_style_changes_nothing() -> None:
    assert LabelStyle().draw(PLAIN, START, 0, SMALL) is PLAIN
    np.testing.assert_array_equal(LabelStyle().pose(ahead(3.0), planar=False), ahead(3.0))


def test_a_style_is_drawn_once_and_for_all() -> None:
    for seed in range(5):
        one, other = (draw_style(np.random.default_rng(seed), plain=0.0) for _ in range(2))
        drawn = one.draw(PLAIN, START, 7, SMALL)
        np.testing.assert_array_equal(drawn, other.draw(PLAIN, START, 7, SMALL))
        assert drawn.dtype == np.uint8 and drawn.shape == PLAIN.shape and drawn.max() <= FREE
        assert (drawn != PLAIN).any()


def test_gaps_stay_where_they_are_in_the_world_and_flicker_does_not() -> None:
    step = 8  # columns
    behind = street(SMALL, step * SMALL.voxel_m)
    for flicker, least, most in ((0.0, 0.999, 1.0), (0.4, 0.3, 0.7)):
        style = LabelStyle(seed=3, thinned=(0.5, 0.5), ground_gap=(0.4, 0.4), flicker=flicker)
        now = style.draw(PLAIN, START, 0, SMALL)[step:]
        later = style.draw(behind, ahead(step * SMALL.voxel_m), 1, SMALL)[:-step]
        assert 0.2 < (now != FREE).sum() / (PLAIN != FREE).sum() < 0.7
        overlap = ((now != FREE) & (later != FREE)).sum() / ((now != FREE) | (later != FREE)).sum()
        assert least <= overlap <= most


def test_poses_that_follow_the_ground_explain_its_heights() -> None:
    # Two voxels from one frame to the next.
    terrain = Terrain(
        wave=np.array([[0.05, 0.0]]), phase=np.zeros(1), height_m=np.array([0.8 / np.sin(0.2)]), tilts=False
    )
    style = LabelStyle(terrain=terrain)
    there = ahead(4.0)
    now, later = style.draw(PLAIN, START, 0, SMALL), style.draw(street(SMALL, 4.0), there, 1, SMALL)
    assert (now[:, :, 2] != 11).any()
    overlaps = []
    for planar in (False, True):
        pose = [torch.from_numpy(style.pose(one, planar=planar)) for one in (START, there)]
        move = column_move((invert_pose(pose[0]) @ pose[1])[None].float(), SMALL)
        road = move.take(torch.from_numpy(now)[None])[0, :-12].numpy() == 11
        true = later[:-12] == 11
        overlaps.append((road & true).sum() / (road | true).sum())
    assert overlaps[0] > 0.8 > overlaps[1] + 0.1


def test_slopes_stay_within_the_bound() -> None:
    place = np.random.default_rng(0).uniform(-300, 300, (2000, 2))
    for seed in range(20):
        slope = draw_terrain(np.random.default_rng(seed), steepest=6.0).slope(place)
        assert np.degrees(np.arctan(np.linalg.norm(slope, axis=-1))).max() <= 6.01
