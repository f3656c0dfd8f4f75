"""One environment: a thin Gymnasium face of the engine."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from torch import Tensor

from ii_world_env import observations
from ii_world_env.engine import CAUSES, Engine, EngineConfig, State, StepOutput
from ii_world_env.planar import into
from ii_world_env.render import compose_frame
from ii_world_env.rewards import RewardFunction, reward_function
from ii_world_env.route import points_at
from ii_world_env.scenes import Start, open_scenes
from ii_world_env.spaces import action_space, observation_space
from world_model.errors import ActionError, OptionError
from world_model.worlds import build_world


class IIWorldEnv(gym.Env[Any, np.ndarray]):
    """
    ## Description
    The ego vehicle drives through a city street that is forecast, not recorded: from two seconds of observed 3D
    occupancy a learned world model predicts, half a second at a time, what surrounds the vehicle after each action.
    The task is to follow the recorded route to its end within the horizon without touching anything, leaving the
    drivable ground or shaking the passengers.

    Frames: the ego frame has its origin at the rear axle on the ground, x forward, y left, z up, metres. One step
    is 0.5 s. Other worlds than the learned one are chosen with ``world=``: "transport" moves the observed occupancy
    with the ego, "replay" shows the recorded occupancy from where the ego is.

    ## Action Space
    `action="kinematic"` (default), a `Box(-1, 1, (2,), float32)`, through a bicycle model with a wheelbase of 2.588 m:

    | Index | Meaning                   | Unit  | at -1 | at 0 | at +1 |
    |-------|---------------------------|-------|-------|------|-------|
    | 0     | longitudinal acceleration | m/s²  | -6    | 0    | +4    |
    | 1     | steering angle            | rad   | -0.5 (right) | 0 | +0.5 (left) |

    The speed stays in 0..20 m/s; steering is limited so that the lateral acceleration stays below 6 m/s².

    `action="delta"`, a `Box(-1, 1, (3,), float32)`, the motion over the step in the ego frame at its beginning:

    | Index | Meaning | Unit | at -1 | at 0 | at +1 |
    |-------|---------|------|-------|------|-------|
    | 0     | dx      | m    | 0     | 4    | 8     |
    | 1     | dy      | m    | -1.5  | 0    | +1.5  |
    | 2     | dyaw    | rad  | -0.4  | 0    | +0.4  |

    Values outside [-1, 1] are clipped; NaN, infinities and other shapes raise `ActionError`.

    ## Observation Space
    `observation="bev"` (default), a `Dict`:

    | Key     | Shape      | Type    | Meaning                                            | Unit | Min | Max |
    |---------|------------|---------|----------------------------------------------------|------|-----|-----|
    | `bev`   | (100, 100) | uint8   | class of each 0.8 m cell, axis 0 forward, axis 1 left | id | 0 | 17 |
    | `ego`   | (4 + A,)   | float32 | 0 speed                                            | m/s  | -20 | 20  |
    |         |            |         | 1 yaw rate                                         | rad/s | -2 | 2   |
    |         |            |         | 2 longitudinal acceleration                        | m/s² | -20 | 20  |
    |         |            |         | 3 route left to the destination                    | m    | -200 | 200 |
    |         |            |         | 4.. last action                                    | -    | -1  | 1   |
    | `route` | (16,)      | float32 | x, y of the route 4, 8, ... 32 m ahead, ego frame  | m    | -80 | 80  |

    A cell shows the most important class among its voxels up to 3 m above the ground: pedestrians and cones before
    vehicles, vehicles before structures, structures before ground; 17 is unknown or free.

    `observation="occupancy"`: the whole forecast, a `Box(0, 17, (200, 200, 16), uint8)` of class ids `[x, y, z]`, 0.4 m
    voxels over x, y of -40..40 m and z of -1..5.4 m. With either mode `env.unwrapped.occupancy` gives it.

    ## Rewards
    The reward is the sum of `info["reward_terms"]`. `reward="default"`:

    | Term          | per step                                                                     |
    |---------------|------------------------------------------------------------------------------|
    | `progress`    | 10 × metres along the route / length of the route (at least 10 m)              |
    | `destination` | +2 on arrival                                                                |
    | `collision`   | -10 for an at-fault contact of the swept 4.084 × 1.85 m body with an obstacle |
    | `off_road`    | -5 when a corner of the body leaves the drivable ground                      |
    | `ttc`         | -0.3, -0.2, -0.1 if the body would touch something in 0.3, 0.6, 0.9 s         |
    | `comfort`     | -0.1 for each exceeded limit of comfort (NAVSIM's)                           |
    | `route`       | -0.02 per metre beside the route, up to 4 m                                  |

    `reward="pdms"` is the gated score of NAVSIM per step, in [0, 1]; `reward="sparse"` is +1 on arrival and -1 for a
    collision or for leaving the road. Any callable from `Outcome` to named terms, or its "package.module:name", works.

    ## Starting State
    A random recorded keyframe of the split with four frames before it and the horizon after it, at the recorded
    speed. `reset(options=...)` takes `scene` (name or number), `frame` (keyframe number in the scene), `command`
    ("right", "left", "straight") and `speed_mps`; other keys raise `OptionError`.

    ## Episode End
    Named in `info["end"]` (None while it runs). Terminated: `collision`, `off_road`, `destination` (the recorded
    position at the horizon; only when that is at least 5 m away). Truncated: `horizon`, `route_end` (the recording
    ends), `untrusted` (only with a trust function).

    ## Arguments
    | Name          | Default     | Meaning                                                                      |
    |---------------|-------------|------------------------------------------------------------------------------|
    | `world`       | "learned"   | "learned", "transport", "replay", or "package.module:Class" |
    | `checkpoint`  | None        | folder of a trained model; None is the bundled one                           |
    | `index`       | None        | index file of `python -m world_model.prepare`                                |
    | `data_root`   | None        | folder of the data; without `index` and `data_root` the bundled demo scenes  |
    | `split`       | "val"       | "train", "val" or "all"                                                      |
    | `action`      | "kinematic" | "kinematic" or "delta"                                                       |
    | `observation` | "bev"       | "bev" or "occupancy"                                                         |
    | `reward`      | "default"   | "default", "pdms", "sparse", a callable or its import path                   |
    | `horizon`     | 16          | steps of 0.5 s until truncation                                              |
    | `device`      | "auto"      | "auto", "cpu", "cuda", "cuda:1", ...                                         |
    | `dtype`       | "auto"      | "auto", "float32" or "bfloat16"                                              |
    | `render_mode` | None        | "rgb_array"                                                                  |

    Environments of one process share one copy of the weights.

    ## Version History
    * v0: first version.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 2}  # type: ignore[misc]

    def __init__(
        self,
        *,
        world: str = "learned",
        checkpoint: str | None = None,
        index: str | None = None,
        data_root: str | None = None,
        split: str = "val",
        action: str = "kinematic",
        observation: str = "bev",
        reward: str | RewardFunction = "default",
        horizon: int = 16,
        device: str = "auto",
        dtype: str = "auto",
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise OptionError(f"render_mode={render_mode!r}", "None or 'rgb_array'", "choose one of them")
        config = EngineConfig(action=action, horizon=horizon)
        self.engine = Engine(
            build_world(world, checkpoint=checkpoint, device=device, dtype=dtype), config, reward_function(reward)
        )
        self.scenes = open_scenes(data_root=data_root, index=index, split=split, horizon=horizon)
        self.observation_mode, self.render_mode = observation, render_mode
        self.action_space = action_space(action)
        self.observation_space = observation_space(observation, action, self.engine.world.grid)
        self._state: State | None = None
        self._start: Start | None = None
        self._ended = False
        self._path: list[Tensor] = []
        self._caption = ""

    @property
    def state(self) -> State:
        """The engine's state of this moment, a batch of one: keep it, branch from it, give it to a planner.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._state is None:
            raise ResetNeeded("Cannot read the state before calling env.reset()")
        return self._state

    @property
    def occupancy(self) -> np.ndarray:
        """The forecast occupancy (X, Y, Z) uint8 in the current ego frame, a copy."""
        return self.state.labels[0].cpu().numpy().copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see the class for the options.

        Raises:
            OptionError: an unknown option or a value that does not fit.
            DataError: the labels of the start are missing or damaged.
        """
        super().reset(seed=seed)
        start = self.scenes.choose(self.np_random, options)
        world = self.engine.world
        clips = self.scenes.load([start], self.engine.frames_ahead, world.needs_future_labels, world.grid)
        self._state = self.engine.reset(clips, torch.tensor([start.speed_mps]), torch.tensor([start.command]))
        self._start, self._ended = start, False
        self._path = [self._state.pose[:, None]]
        info = self._info(None)
        self._caption = self._describe(info, 0.0)
        return self._observe(), info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drive one step of 0.5 s.

        Raises:
            ActionError: the action has the wrong shape or is not finite.
            ResetNeeded: the episode has ended or not begun.
        """
        if self._state is None or self._ended:
            raise ResetNeeded("Cannot call env.step() before env.reset(), nor after the episode has ended")
        self._state, out = self.engine.step(self._state, self._action(action))
        self._path.append(out.path)
        terminated, truncated = bool(out.terminated[0]), bool(out.truncated[0])
        self._ended = terminated or truncated
        info = self._info(out)
        # Summed in double precision from the very numbers that are reported, so that they add up exactly.
        reward = float(sum(info["reward_terms"].values()))
        self._caption = self._describe(info, reward)
        return self._observe(), reward, terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """Bird's eye, perspective, path, route and a line of text, (430, 960, 3) uint8; None without a render mode."""
        if self.render_mode is None:
            logging.getLogger(__name__).warning(
                'render() does nothing: make the environment with render_mode="rgb_array"'
            )
            return None
        state = self.state
        ahead = torch.arange(0.0, 60.0, 2.0, device=state.pose.device)[None] + state.progress_m[:, None]
        route = into(state.pose, points_at(state.route, ahead))
        path = into(state.pose, torch.cat(self._path, 1)[..., :2])
        goal = into(state.pose, points_at(state.route, state.route.goal_m[:, None]))
        if float(state.route.goal_m[0]) < self.engine.config.shortest_goal_m:
            goal = torch.full_like(goal, float("nan"))
        return compose_frame(
            self.occupancy,
            self.engine.world.grid,
            path_m=path[0].cpu().numpy(),
            route_m=route[0].cpu().numpy(),
            goal_m=goal[0, 0].cpu().numpy(),
            text=self._caption,
        )

    def close(self) -> None:
        """Forget the episode; closing twice is fine."""
        self._state, self._path = None, []

    def _action(self, action: np.ndarray) -> Tensor:
        try:
            values = np.asarray(action, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ActionError(
                f"action {action!r}", f"{self.action_space.shape} numbers", "give a float array"
            ) from error
        if values.shape != self.action_space.shape:
            raise ActionError(
                f"an action of shape {values.shape}",
                f"shape {self.action_space.shape} for action={self.engine.config.action!r}",
                "see env.action_space",
            )
        return torch.from_numpy(values.copy())[None]

    def _observe(self) -> Any:
        state = self.state
        if self.observation_mode == "occupancy":
            return self.occupancy
        seen = {
            "bev": observations.bev(state.labels, self.engine.world.grid),
            "ego": observations.ego(state),
            "route": observations.route(state),
        }
        return {name: value[0].cpu().numpy().copy() for name, value in seen.items()}

    def _info(self, out: StepOutput | None) -> dict[str, Any]:
        """What is known about this moment; fresh objects in every call, since callers keep and change them."""
        state, start, index = self.state, self._start, self.scenes.index
        assert start is not None
        cause = 0 if out is None else int(out.cause[0])
        info: dict[str, Any] = {
            "data_source": self.scenes.source,
            "scene": self.scenes.name(start.scene),
            "frame": start.frame - index.frames(start.scene).start,
            "time_s": 0.5 * int(state.steps[0]),
            "ego_pose": state.pose[0].cpu().numpy().copy(),
            "speed_mps": float(state.speed_mps[0]),
            "progress_m": float(state.progress_m[0]),
            "goal_m": float(state.route.goal_m[0]),
            "end": CAUSES[cause] if cause else None,
        }
        if out is not None:
            info["reward_terms"] = {name: float(value[0]) for name, value in out.terms.items()}
            info["time_to_collision_s"] = round(float(out.outcome.time_to_collision_s[0]), 1)
            info["lateral_m"] = float(out.outcome.lateral_m[0])
        return info

    def _describe(self, info: dict[str, Any], reward: float) -> str:
        end = f"   {info['end'].replace('_', ' ').upper()}" if info["end"] else ""
        return (
            f"{info['scene']}  frame {info['frame']}  +{info['time_s']:.1f} s   {info['speed_mps'] * 3.6:.0f} km/h   "
            f"{info['progress_m']:.0f} of {info['goal_m']:.0f} m   reward {reward:+.2f}{end}   [{info['data_source']}]"
        )
