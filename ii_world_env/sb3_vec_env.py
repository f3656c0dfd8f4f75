"""The batch as a stable-baselines3 ``VecEnv``: one process, one model, one forward per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from ii_world_env import ENV_ID
from ii_world_env.faces.infos import unbatch
from ii_world_env.vector_env import IIWorldVectorEnv, SubEnvironment


class IIWorldVecEnv(VecEnv):
    """
    ## Description
    N environments for stable-baselines3 in one process, with one copy of the weights and one forward per step:

        env = VecMonitor(IIWorldVecEnv(8, horizon=16))
        PPO("MultiInputPolicy", env, policy_kwargs={"features_extractor_class": ClassMapExtractor}).learn(20_000)

    ## Action Space
    That of one `IIWorldEnv`; `step` takes (N, ...) of them.

    ## Observation Space
    That of one `IIWorldEnv`; they come as (N, ...) arrays, or a dict of them. `ii_world_env.observations.extractor`
    has the features extractor that embeds class ids.

    ## Rewards
    (N,) float32; the terms are in `infos[i]["reward_terms"]`.

    ## Starting State
    As in `IIWorldEnv`; `seed(...)` and `set_options(...)` count for the next reset. The infos of a reset are in
    `reset_infos`.

    ## Episode End
    An environment that ends starts anew in the same step: its last observation is `infos[i]["terminal_observation"]`,
    and `infos[i]["TimeLimit.truncated"]` says whether the value beyond it should be bootstrapped.

    ## Arguments
    Those of `IIWorldVectorEnv` but `autoreset_mode`, and:

    | Name       | Default               | Meaning                         |
    |------------|-----------------------|---------------------------------|
    | `num_envs` | required              | N                               |
    | `env_id`   | "IIWorld-nuScenes-v0" | a registered id of this package |

    ## Version History
    * v0: first version.
    """

    actions: Any = None

    def __init__(self, num_envs: int, env_id: str = ENV_ID, **options: Any) -> None:
        envs = gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP.value, **options)
        assert isinstance(envs, IIWorldVectorEnv)
        self.vector = envs
        super().__init__(num_envs, envs.single_observation_space, envs.single_action_space)
        self.metadata = dict(envs.metadata)  # the base keeps the render modes alone: films would not know their speed

    def reset(self) -> VecEnvObs:
        """Start everywhere, with the seeds and options that were set since the last reset."""
        rows = range(self.num_envs)
        observation: VecEnvObs
        observation, infos = self.vector.reset_rows(rows, self._seeds, self._options)
        self.reset_infos = [unbatch(infos, i) for i in rows]
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take note of (N, ...) actions."""
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Drive one step: observations, (N,) float32 rewards, (N,) bool dones, N infos."""
        observation, reward, terminated, truncated, batch = self.vector.step(self.actions)
        done = terminated | truncated
        infos = []
        for i in range(self.num_envs):
            info = unbatch(batch, i)
            if done[i]:
                last, final = info.pop("final_obs"), info.pop("final_info")
                self.reset_infos[i], info = info, {**final, "terminal_observation": last}
            info["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            infos.append(info)
        return observation, reward.astype(np.float32), done, infos

    def close(self) -> None:
        """Forget all episodes; closing twice is fine."""
        self.vector.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Read an attribute of some environments, see `SubEnvironment`."""
        return [getattr(env, attr_name) for env in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of some environments."""
        for env in self._chosen(indices):
            setattr(env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of some environments."""
        return [getattr(env, method_name)(*args, **kwargs) for env in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Never: an environment in a batch has no wrappers of its own."""
        return [False for _ in self._chosen(indices)]

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """A picture of every environment, or None without a render mode."""
        return self.env_method("render")

    def _chosen(self, indices: VecEnvIndices) -> list[SubEnvironment]:
        return [self.vector.envs[i] for i in self._get_indices(indices)]
