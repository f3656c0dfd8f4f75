"""PPO in one file on ``gym.make_vec`` after CleanRL's public pattern: its habits, and no knowledge of this project.

What such a client relies on: batched spaces and arrays, next-step autoreset, `RecordEpisodeStatistics`, seeds.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import nn
from torch.distributions import Categorical, Normal

STEPS, ENVS, GAMMA, LAMBDA = 12, 4, 0.97, 0.95


class Agent(nn.Module):
    """Two small networks on a flat observation."""

    def __init__(self, envs: gym.vector.VectorEnv) -> None:
        super().__init__()
        space = envs.single_action_space
        self.discrete = isinstance(space, gym.spaces.Discrete)
        inputs = int(np.prod(envs.single_observation_space.shape))
        outputs = int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape))
        self.critic = nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 1))
        self.actor = nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, outputs))
        self.log_std = nn.Parameter(torch.zeros(outputs))

    def act(self, seen: torch.Tensor, action: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        mean = self.actor(seen)
        choice = Categorical(logits=mean) if self.discrete else Normal(mean, self.log_std.exp())
        action = choice.sample() if action is None else action
        weight, entropy = choice.log_prob(action), choice.entropy()
        if not self.discrete:
            weight, entropy = weight.sum(1), entropy.sum(1)
        return action, weight, entropy, self.critic(seen).flatten()


@pytest.mark.parametrize("action", ["kinematic", "meta"])
def test_ppo_in_one_file(small_data: Path, action: str) -> None:
    torch.manual_seed(1)
    envs = RecordEpisodeStatistics(
        gym.make_vec(
            "IIWorld-nuScenes-v0",
            num_envs=ENVS,
            world="small_worlds:Transport",
            data_root=str(small_data),
            device="cpu",
            observation="state",
            action=action,
            horizon=4,
        )
    )
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-4, eps=1e-5)
    networks = [*agent.actor.parameters(), *agent.critic.parameters()]
    before = [p.detach().clone() for p in networks]
    seen, _ = envs.reset(seed=1)
    next_seen, next_done = torch.as_tensor(seen), torch.zeros(ENVS)
    returns: list[float] = []
    for _ in range(2):
        kept = []
        for _ in range(STEPS):
            with torch.no_grad():
                chosen, weight, _, value = agent.act(next_seen)
            seen, reward, terminated, truncated, infos = envs.step(chosen.numpy())
            kept.append((next_seen, chosen, weight, torch.as_tensor(reward).float(), next_done, value))
            next_seen, next_done = torch.as_tensor(seen), torch.as_tensor(terminated | truncated).float()
            if "episode" in infos:
                returns += infos["episode"]["r"][infos["_episode"]].tolist()
        obs, chosens, weights, rewards, dones, values = (torch.stack(column) for column in zip(*kept, strict=True))
        with torch.no_grad():
            following, advantage, advantages = agent.act(next_seen)[3], torch.zeros(ENVS), torch.zeros(STEPS, ENVS)
            for t in reversed(range(STEPS)):
                alive = 1 - (next_done if t == STEPS - 1 else dones[t + 1])
                delta = rewards[t] + GAMMA * following * alive - values[t]
                advantages[t] = advantage = delta + GAMMA * LAMBDA * alive * advantage
                following = values[t]
        flat = [x.flatten(0, 1) for x in (obs, chosens, weights, advantages, advantages + values)]
        for rows in torch.randperm(STEPS * ENVS).split(16):
            some_seen, some_chosen, old_weight, gain, target = (x[rows] for x in flat)
            _, weight, entropy, value = agent.act(some_seen, some_chosen)
            ratio, gain = (weight - old_weight).exp(), (gain - gain.mean()) / (gain.std() + 1e-8)
            policy = torch.maximum(-gain * ratio, -gain * ratio.clamp(0.8, 1.2)).mean()
            loss = policy + 0.5 * (value - target).square().mean() - 0.01 * entropy.mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
            assert torch.isfinite(loss)
    envs.close()
    assert len(returns) >= 2 * ENVS and np.isfinite(returns).all()
    assert not any(torch.equal(a, b) for a, b in zip(before, networks, strict=True)), "both networks have learned"
