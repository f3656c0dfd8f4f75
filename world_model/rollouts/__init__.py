"""Drive worlds: one batched loop for every purpose, and batches whose samples keep their places."""

from world_model.rollouts.batch_slots import fixed_slots
from world_model.rollouts.rollout import Rollout, roll

__all__ = ["Rollout", "fixed_slots", "roll"]
