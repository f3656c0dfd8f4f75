"""Ego motions to drive a world with: read from a file, sampled like real driving, or an edited recording.

A trajectory is an array of planar motions (H, 3): dx m, dy m, dyaw rad of each step of 0.5 s in the ego frame before
the step (x forward, y left, yaw to the left); or of rigid transforms (H, 4, 4), next ego frame -> current ego frame.
"""

from world_model.generation.trajectories.edit import Edit, edited
from world_model.generation.trajectories.read import parse_trajectory, read_trajectory
from world_model.generation.trajectories.sample import sample_motions

__all__ = ["Edit", "edited", "parse_trajectory", "read_trajectory", "sample_motions"]
