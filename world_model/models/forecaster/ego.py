"""The ego vehicle as the published forecaster follows it: global positions, a streaming motion memory, odd velocities.

Used with ``faithful=True`` alone; `world_model.models.forecaster.motion` is right. The numbers in comments are those
of `world_model.checkpoints.deviations`. State goes in and comes out. B samples, H remembered steps; poses are float64,
because global coordinates run to kilometres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.geometry import invert_pose, pose_matrix, quat_conjugate, quat_multiply
from world_model.core.grid import STEP_S
from world_model.core.tensor_state import TensorState


@dataclass(frozen=True, kw_only=True)
class EgoState(TensorState):
    """What the published forecaster knows about the ego vehicle of B samples.

    The first three outlive a rollout: `begin` takes them into the next one.

    Attributes:
        observed: (B, H, 9) motion slots of observed steps, oldest to newest: dx, dy along the global axes (m), relative
            quaternion (w, x, y, z), three motion features.
        last_position: (B, 3) what predicted velocities are measured from, metres, global.
        last_yaw: (B,) likewise, rad.
        position: (B, 3) current position, metres, global.
        rotation: (B, 4) current quaternion ego -> global.
        start: (B,) bool, predicted velocities are measured from the current pose before every step.
        command: (B,) long command of the step before, -1 before the first.
    """

    observed: Tensor
    last_position: Tensor
    last_yaw: Tensor
    position: Tensor
    rotation: Tensor
    start: Tensor
    command: Tensor

    @staticmethod
    def initial(batch: int, slots: int, device: torch.device | str = "cpu") -> EgoState:
        """Nothing seen yet."""
        zero = torch.zeros(batch, 3, dtype=torch.float64, device=device)
        return EgoState(
            observed=unobserved(batch, slots, device),
            last_position=zero,
            last_yaw=zero[:, 0],
            position=zero,
            rotation=F.pad(zero, (1, 0), value=1.0)[:, :4],
            start=torch.ones(batch, dtype=torch.bool, device=device),
            command=torch.full((batch,), -1, device=device),
        )

    def begin(self, position: Tensor, rotation: Tensor, start: Tensor) -> EgoState:
        """The state at the start of a rollout from a pose; the memory is wiped where a sequence starts."""
        slots = self.observed.shape[1]
        wiped = torch.where(start.view(-1, 1, 1), unobserved(len(start), slots, start.device), self.observed)
        return replace(
            self,
            observed=wiped,
            position=position.double(),
            rotation=rotation.double(),
            start=start,
            command=torch.full_like(self.command, -1),
        )

    def observe(self, position: Tensor, rotation: Tensor, features: Tensor) -> EgoState:
        """Append one observed step, which leads from pose 0 to pose 1.

        Args:
            position: (B, 2, 3) positions of the two poses.
            rotation: (B, 2, 4) their quaternions.
            features: (B, 3) vx, vy, yaw rate of pose 0, measured over the step *into* it (6).
        """
        slot = slot_between(position, rotation, features)
        return replace(self, observed=torch.cat((self.observed[:, 1:], slot[:, None]), 1))

    def obey(self, command: Tensor) -> tuple[Tensor, EgoState]:
        """The command that a step follows, which is the one before (6), and the state that remembers this one."""
        return torch.where(self.command < 0, command, self.command), replace(self, command=command)

    def follow(self, motion: Tensor, *, couple_batch: bool = False) -> tuple[EgoState, Tensor]:
        """The state after the predicted motion.

        Args:
            motion: (B, 6) dx, dy along the global axes (12), relative quaternion.
            couple_batch: measure one speed for the whole batch (5); for tests alone.

        Returns:
            The state at the predicted next pose, and the (B, 9) motion slot of the step, without gradient.
        """
        motion = motion.detach().double()
        relative = F.normalize(motion[:, 2:], dim=-1)
        position = self.position + F.pad(motion[:, :2], (0, 1))
        rotation = quat_multiply(relative, self.rotation)  # (7) the factors stand the wrong way round
        # (4) Only where the sequence starts are velocities measured from the current pose.
        last_position = torch.where(self.start[:, None], self.position, self.last_position)
        last_yaw = torch.where(self.start, misread_yaw(self.rotation), self.last_yaw)
        yaw = misread_yaw(rotation)
        velocity = _velocity(position - last_position, yaw, couple_batch)
        # (2) Predicted features come in another order than observed ones.
        features = torch.cat((((yaw - last_yaw) / STEP_S)[:, None], velocity), -1)
        moved = replace(self, position=position, rotation=rotation, last_position=position, last_yaw=yaw)
        return moved, torch.cat((motion[:, :2], relative, features), -1)

    def teacher_forced(self, position: Tensor, rotation: Tensor, mask: Tensor) -> EgoState:
        """Put the true pose in place of the predicted one for some samples (what velocities refer to stays)."""
        return replace(
            self,
            position=torch.where(mask[:, None], position.double(), self.position),
            rotation=torch.where(mask[:, None], rotation.double(), self.rotation),
        )

    @property
    def pose(self) -> Tensor:
        """(B, 4, 4) float64 current pose, ego -> global."""
        return pose_matrix(self.position, self.rotation)


def unobserved(batch: int, slots: int, device: torch.device | str = "cpu") -> Tensor:
    """(B, H, 9) slots of unobserved steps; their quaternion is no rotation (1)."""
    slot = torch.zeros(batch, slots, 9, dtype=torch.float64, device=device)
    slot[..., 2:6] = 1
    return slot


def slot_between(position: Tensor, rotation: Tensor, features: Tensor) -> Tensor:
    """Motion slot (B, 9) of a step between two positions (B, 2, 3) and quaternions (B, 2, 4); features (B, 3)."""
    shift, rotation = position[:, 1].double() - position[:, 0].double(), rotation.double()
    relative = quat_multiply(quat_conjugate(rotation[:, 0]), rotation[:, 1])
    return torch.cat((shift[:, :2], relative, features.double()), -1)


def misread_yaw(rotation: Tensor) -> Tensor:
    """Yaw (...) of a (w, x, y, z) quaternion (..., 4) taken for (x, y, z, w), rad: 0 for any planar heading (3)."""
    q0, q1, q2, q3 = rotation.unbind(-1)
    return torch.atan2(2 * (q3 * q2 + q0 * q1), 1 - 2 * (q1 * q1 + q2 * q2))


def _velocity(shift: Tensor, yaw: Tensor, couple_batch: bool) -> Tensor:
    """(..., 2) velocity with the length of a displacement (..., 3), a right angle left of the misread yaw (3, 5)."""
    speed = shift.norm(dim=-1) / STEP_S
    if couple_batch:
        speed = (shift[:2].norm() / STEP_S).expand_as(speed)
    direction = yaw + math.pi / 2
    return torch.stack((speed * direction.cos(), speed * direction.sin()), -1)


def prepared_features(position: Tensor, rotation: Tensor) -> Tensor:
    """Motion features as the published data preparation writes them.

    Args:
        position: (B, P, 3) metres, global, oldest to newest.
        rotation: (B, P, 4).

    Returns:
        (B, P, 3) vx, vy, yaw rate of each frame, measured over the step into it (2, 3); the first frame copies the
        second, and is at rest where it is the only one.
    """
    yaw = misread_yaw(rotation)
    velocity = _velocity(position[:, 1:] - position[:, :-1], yaw[:, 1:], couple_batch=False)
    rest = torch.cat((velocity, ((yaw[:, 1:] - yaw[:, :-1]) / STEP_S)[..., None]), -1)
    first = rest[:, :1] if rest.shape[1] else torch.zeros_like(position[:, :1])
    return torch.cat((first, rest), 1)


def observed_ego(poses: Tensor, slots: int) -> EgoState:
    """The state at the last of some observed poses (B, P, 4, 4), ego -> global, oldest to newest.

    The motion memory is that of a sequence which starts at the first of them. There is no earlier rollout that
    predicted velocities could be measured from (4), so they are measured as where a sequence starts.
    """
    position, rotation = poses[..., :3, 3].double(), rotations_of(poses.double())
    features = prepared_features(position, rotation)
    ego = EgoState.initial(len(poses), slots, poses.device)
    ego = ego.begin(position[:, -1], rotation[:, -1], torch.ones_like(ego.start))
    for i in range(poses.shape[1] - 1):
        ego = ego.observe(position[:, i : i + 2], rotation[:, i : i + 2], features[:, i])
    return ego


def rotations_of(poses: Tensor) -> Tensor:
    """Quaternions (B, P, 4) of poses (B, P, 4, 4), without jumps of sign from one frame to the next."""
    out: list[Tensor] = []
    for quaternion in quat_from_matrix(poses[..., :3, :3]).unbind(1):
        jumped = (quaternion * out[-1]).sum(-1, keepdim=True) < 0 if out else torch.zeros_like(quaternion[:, :1]).bool()
        out.append(torch.where(jumped, -quaternion, quaternion))
    return torch.stack(out, 1)


def quat_from_matrix(rotation: Tensor) -> Tensor:
    """Unit quaternion (..., 4) with w >= 0 of rotation matrices (..., 3, 3)."""
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    skew = rotation - rotation.transpose(-1, -2)
    axis = torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), -1)[..., None]
    rest = rotation + rotation.transpose(-1, -2) - trace * torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    # 4 q q^T - 1: each row is the quaternion times one of its components, and the longest row is the most exact.
    outer = torch.cat((torch.cat((trace, axis.transpose(-1, -2)), -1), torch.cat((axis, rest), -1)), -2)
    rows = outer + torch.eye(4, dtype=rotation.dtype, device=rotation.device)
    longest = rows.square().sum(-1).argmax(-1)
    quaternion = rows.gather(-2, longest[..., None, None].expand(*longest.shape, 1, 4))[..., 0, :]
    quaternion = F.normalize(quaternion, dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def curr_to_next(current: EgoState, following: EgoState) -> Tensor:
    """(B, 4, 4) transform from one state's ego frame into another's."""
    return invert_pose(following.pose) @ current.pose
