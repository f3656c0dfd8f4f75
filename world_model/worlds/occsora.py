"""OccSora as a world: a whole episode is drawn at once for a planned drive, then shown from where the ego really is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from world_model.core.errors import ConfigError, OptionError
from world_model.core.geometry import se2_matrix
from world_model.core.grid import STEP_S
from world_model.data.clips import Clips
from world_model.models.occsora import SoraTokenizer, SoraTransformer
from world_model.models.occsora.diffusion import sample_latents
from world_model.models.occsora.trajectory import encode_trajectory
from world_model.models.occsora.windows import carried
from world_model.worlds.replay import ReplayState, ReplayWorld

SAMPLING_STEPS = 20
"""Steps of DDIM (Song et al., ICLR 2021) of a draw; the published sampler takes all 1,000 (``ancestral``)."""


@dataclass(frozen=True, kw_only=True)
class SoraState(ReplayState):
    """B drawn episodes; the poses of `ReplayState` are those of the planned drive.

    Attributes:
        trajectory: (B, 2 F) float32 the planned drive as the transformer was told it.
        seed: (B,) int64 of the noise that the episode was drawn from.
        history: (B, C, t, x, y) latent of the observed frame carried along the plan; None where it is not used.
    """

    trajectory: Tensor
    seed: Tensor
    history: Tensor | None = None


class SoraWorld(ReplayWorld):
    """A trained 4D tokenizer and diffusion transformer.

    At a reset all frames of an episode are drawn for a planned drive: the recorded one as far as the clips have it,
    then the last motion held. A step shows the next frame, moved from the planned pose to the executed one. So what
    was drawn does not answer the actions, and as released it does not begin with the observation either: road, traffic
    and buildings are invented. The same clip and seed give the same episode.

    Args:
        tokenizer: latents -> labels.
        transformer: drive and noise -> latents.
        steps: sampling steps.
        ancestral: sample as published (with ``steps`` of the whole process: exactly), not by DDIM.
        planned: plan along the recorded drive; False: hold the motion of the current frame, which uses no future pose.

    Attributes:
        starts_from_observation, answers_actions, horizon_steps: see `Limited`.
        mode: how episodes are drawn, in words.

    Raises:
        ConfigError: the two do not belong together.
    """

    needs_future_labels = False
    answers_actions = False

    def __init__(
        self,
        tokenizer: SoraTokenizer,
        transformer: SoraTransformer,
        *,
        steps: int = SAMPLING_STEPS,
        ancestral: bool = False,
        planned: bool = True,
    ) -> None:
        if not transformer.config.fits(tokenizer.config):
            raise ConfigError(
                f"a transformer for latents {transformer.config.latent_shape} of {transformer.config.frames} frames",
                f"latents {tokenizer.config.latent_shape} of {tokenizer.config.frames} frames, as the tokenizer makes",
                "use a tokenizer and a transformer that were trained together",
            )
        self.tokenizer, self.transformer = tokenizer.eval(), transformer.eval()
        super().__init__(tokenizer.config.grid, transformer.pos_embed.device)
        self.steps, self.ancestral, self.planned = min(steps, transformer.config.steps), ancestral, planned
        # Results on disk are kept apart by it.
        self.mode = f"episode, {self.steps} {'ancestral' if ancestral else 'DDIM'} steps, planned={planned}"
        self.starts_from_observation = transformer.config.history
        self.horizon_steps = tokenizer.config.frames - 1

    def reset(self, clips: Clips) -> SoraState:
        """Draw an episode for every clip, its frame number being the seed."""
        poses, commands = plan(clips, self.tokenizer.config.frames, self.planned)
        trajectory = encode_trajectory(self.transformer.config, poses, commands).to(self.transformer.pos_embed)
        history = None
        if self.transformer.config.history:
            observed = clips.occupancy[:, -1].to(self.device)
            history = torch.cat(
                [
                    self.tokenizer.latent(carried(observed[n : n + 1], poses[n : n + 1], self.grid))
                    for n in range(len(observed))
                ]
            )
        seed = torch.tensor(clips.frame, dtype=torch.long, device=self.device)
        begun = self.begin(self._draw(trajectory, history, seed.tolist()), poses)
        return SoraState(**vars(begun), trajectory=trajectory, seed=seed, history=history)

    def draw_traffic(self, state: SoraState, seed: Tensor, futures: Sequence[str | None] | None = None) -> SoraState:
        """The same planned drives, drawn from other noise: another road, other traffic.

        Raises:
            OptionError: the most likely future, which cannot be drawn from noise.
        """
        if futures is not None and "mode" in futures:
            raise OptionError("future='mode' in a SoraWorld", "future='sample'", "leave it out: every seed is a sample")
        labels = self._draw(state.trajectory, state.history, seed.tolist())
        return replace(state, labels=labels, seed=seed.to(self.device))

    def _draw(self, trajectory: Tensor, history: Tensor | None, seeds: Sequence[int]) -> Tensor:
        latents = sample_latents(
            self.transformer, trajectory, seeds, steps=self.steps, ancestral=self.ancestral, history=history
        )
        return self.tokenizer.decode(latents)


def plan(clips: Clips, frames: int, recorded: bool) -> tuple[Tensor, Tensor]:
    """The drive that an episode is drawn for.

    Args:
        clips: B windows.
        frames: keyframes of an episode, the current one first.
        recorded: along the recorded drive as far as it goes, then with the last motion held; else held from the start.

    Returns:
        (B, frames, 4, 4) float64 poses and (B, frames) int64 commands.
    """
    now = clips.past
    poses, commands = [], []
    for n in range(len(clips.occupancy)):
        known = clips.valid[n, now:].long().cumprod(0).sum().clamp(min=1) if recorded else 1
        end = min(now + int(known), now + frames)
        pose = list(clips.ego_to_global[n, now:end].double())
        vx, vy, yaw_rate = clips.motion[n, end - 1].double() * STEP_S
        still = torch.zeros_like(vx)
        held = se2_matrix(still, still, yaw_rate) @ se2_matrix(vx, vy, still)  # velocities are along the later frame
        while len(pose) < frames:
            pose.append(pose[-1] @ held)
        command = clips.command[n, now:end]
        poses.append(torch.stack(pose))
        commands.append(torch.cat((command, command[-1:].expand(frames - len(command)))))
    return torch.stack(poses), torch.stack(commands)
