"""Objects as state: where each one is, how large, how fast, and where it will be.

Legend: B grids, K slots for objects in each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from world_model.core.geometry import yaw_from_matrix
from world_model.core.grid import FREE
from world_model.core.tensor_state import TensorState

SLOTS = 32
"""Objects that are tracked in a grid; of more, those that move come first, then the nearest."""
TURN_S = 2.0
"""Time constant with which turning dies away."""


@dataclass(frozen=True, kw_only=True)
class Tracks(TensorState):
    """B sets of K objects, in the ego frame of the reset.

    Attributes:
        x, y: (B, K) float32 middle of the box, metres.
        yaw: (B, K) float32 heading, rad.
        speed: (B, K) float32 along the heading, m/s, never negative.
        yaw_rate: (B, K) float32 rad/s.
        length, width, height: (B, K) float32 metres.
        class_id: (B, K) uint8, `FREE` in empty slots.
        alive: (B, K) bool, whether the slot holds an object.
        confidence: (B, K) float32 in [0, 1], share of the observed past in which the object was found again.
    """

    x: Tensor
    y: Tensor
    yaw: Tensor
    speed: Tensor
    yaw_rate: Tensor
    length: Tensor
    width: Tensor
    height: Tensor
    class_id: Tensor
    alive: Tensor
    confidence: Tensor

    @classmethod
    def none(cls, batch: int, device: torch.device, slots: int = SLOTS) -> Tracks:
        """B sets without any object."""
        zero = torch.zeros(batch, slots, dtype=torch.float32, device=device)
        names = ("x", "y", "yaw", "speed", "yaw_rate", "length", "width", "height", "confidence")
        return cls(
            **{name: zero for name in names},
            class_id=torch.full((batch, slots), FREE, dtype=torch.uint8, device=device),
            alive=torch.zeros(batch, slots, dtype=torch.bool, device=device),
        )

    @property
    def moving(self) -> Tensor:
        """(B, K) bool, the objects that are under way."""
        return self.alive & (self.speed > 0)

    def advanced(self, dt_s: float | Tensor) -> Tracks:
        """The objects after ``dt_s``, or (B, 1) of them, at constant speed and turn rate (CTRV): a circle or a line."""
        turn = self.yaw_rate * dt_s
        half = turn / 2
        # Chord of the arc: its length shrinks by sin(h) / h, its direction turns by half the turn.
        chord = self.speed * dt_s * torch.sinc(half / torch.pi)
        x = self.x + chord * (self.yaw + half).cos()
        y = self.y + chord * (self.yaw + half).sin()
        return replace(self, x=x, y=y, yaw=self.yaw + turn)

    def coasted(self, dt_s: float | Tensor, parts: int = 1) -> Tracks:
        """The objects after ``dt_s`` at constant speed, while their turning dies away: turns end, few go on for long.

        Args:
            dt_s: a number, or (B, 1).
            parts: how many arcs the way is made of; one is enough for a step.
        """
        tracks, part = self, dt_s / parts
        fade = torch.exp(-torch.as_tensor(part, dtype=self.x.dtype, device=self.x.device) / TURN_S)
        for _ in range(parts):
            tracks = tracks.advanced(part)
            tracks = replace(tracks, yaw_rate=tracks.yaw_rate * fade)
        return tracks

    def seen_from(self, start_to_ego: Tensor) -> Tracks:
        """The objects in another frame, by transforms (B, 4, 4) into it."""
        matrix = start_to_ego.float()
        place = torch.stack((self.x, self.y), -1) @ matrix[:, :2, :2].transpose(1, 2) + matrix[:, None, :2, 3]
        return replace(self, x=place[..., 0], y=place[..., 1], yaw=wrapped(self.yaw + yaw_from_matrix(matrix)[:, None]))


def wrapped(angle: Tensor) -> Tensor:
    """Angles in [-pi, pi)."""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi
