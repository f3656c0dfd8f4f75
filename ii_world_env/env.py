"""One environment: a thin Gymnasium face of the engine."""

from __future__ import annotations

import copy
import logging
from typing import Any, ClassVar

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from ii_world_env.engine import Engine, State
from ii_world_env.faces.config import EnvConfig, each_path
from ii_world_env.faces.episodes import Episodes
from ii_world_env.faces.infos import info_of
from world_model.core.errors import OptionError

RENDER_MODES = ("rgb_array",)


class IIWorldEnv(gym.Env[Any, NDArray[Any]]):
    """
    ## Description
    The ego vehicle drives through a city street that is forecast, not recorded: from two seconds of observed 3D
    occupancy a learned world model predicts, half a second at a time, what surrounds the vehicle after each action.
    The task is to follow the recorded route to its end within the horizon without touching anything, leaving the
    drivable ground or shaking the passengers.

    Frames: the ego frame has its origin at the rear axle on the ground, x forward, y left, z up, metres. One step
    is 0.5 s. ``world=`` chooses what answers the actions, and `info["world"]` names it: "learned" is the learned world
    that the checkpoint holds, "geometric" (what was observed is moved, a network corrects and completes it) before
    "ii-world" (tokenizer and token forecaster); "occworld" and "occsora" are two more published worlds
    (docs/concepts/worlds.md); "transport" moves the observed occupancy with the ego, "replay" shows
    the recorded occupancy from where the ego is, "simulated" goes on with the simulator that made the synthetic scenes,
    where other agents react to the ego.

    `info["data_source"]` names the data of every reset and step, `info["weights_source"]` the data that the weights of
    the world were trained on (None for worlds without weights). Where they differ, a warning is logged once
    (logger "ii_world_env").

    In the geometric world `info["self_check"]` holds what the reset found on the observed past: the IoU with the
    current frame of its forecast from 1 s before, by the network ("network_iou") and by the evidence alone
    ("evidence_iou"). Where the network was worse, the evidence wins in this episode; `self_check=False` switches that
    off.

    In a world that does less than this, `info["world_limits"]` says what: "starts_from_observation" (whether the first
    occupancy is what was observed), "answers_actions" (whether what it shows depends on the actions, beyond the place
    that it is seen from), "horizon_steps" (steps after which it has nothing more to show; a longer horizon is refused).

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

    `action="waypoints"`, a `Box(-1, 1, (6, 3), float32)`, a plan of six links of half a second: row k is a `delta`
    motion in the frame at waypoint k - 1, with the bounds above. Row 0 is driven, the rest is scored (term `plan`).
    The plan through given poses is `ii_world_env.ego.actions.waypoints_through(poses)`.

    `action="meta"`, `Discrete(6)`, manoeuvres along the route, at the ego's present lateral offset from it:

    | Number | Name   | Acceleration, m/s² | Line shifted to the left by, m |
    |--------|--------|--------------------|--------------------------------|
    | 0      | keep   | 0                  | 0                              |
    | 1      | faster | +2                 | 0                              |
    | 2      | slower | -2                 | 0                              |
    | 3      | stop   | -5                 | 0                              |
    | 4      | left   | 0                  | +1                             |
    | 5      | right  | 0                  | -1                             |

    `action="command"`, `Discrete(3)`: 0 right, 1 left, 2 straight. The ego moves as the model of "ii-world" itself
    expects under that command, in "simulated" as the simulator's driver does; other worlds raise `ConfigError`.

    Values outside [-1, 1] are clipped; NaN, infinities, other shapes and choices raise `ActionError`.

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
    voxels over x, y of -40..40 m and z of -1..5.4 m, 640 kB each: 100,000 transitions with their next observations fill
    128 GB, so off-policy agents take "bev", "state" or "traffic". With every mode `env.unwrapped.occupancy` gives it.

    `observation="tokens"`, only in "ii-world": a `Dict` with `ego` and `route` as above and `tokens`, the latent map
    (C, 50, 50) float32 that the occupancy is decoded from.

    `observation="state"`, a `Box` of 33 features read off the occupancy, then `ego` and `route` as above, float32: 53 +
    A numbers, 55 with `action="kinematic"`:

    | Index  | Meaning                                                                          | Unit | Min | Max |
    |--------|----------------------------------------------------------------------------------|------|-----|-----|
    | 0..23  | free distance from the middle of the body, every 15° from straight ahead to the left | m    | 0   | 40  |
    | 24..27 | drivable ground left, right beside the body; left, right 8 m ahead               | m    | 0   | 10  |
    | 28     | distance of the nearest obstacle from the middle of the body                     | m    | 0   | 40  |
    | 29, 30 | where it is, forward and to the left                                             | m    | -40 | 40  |
    | 31     | offset from the route, left positive                                             | m    | -20 | 20  |
    | 32     | heading against the route, left positive                                         | rad  | -π  | π   |

    `observation="traffic"`, a `Box(-1, 1)`: the numbers of "state" divided by their largest values, and then what the
    others do, 79 + A numbers, 81 with `action="kinematic"`. Columns are compared with those of a step earlier, moved by
    the ego's own motion; where no earlier moment is known, nothing moves. With A = 2:

    | Index  | Meaning                                                                        | at -1   | at +1        |
    |--------|--------------------------------------------------------------------------------|---------|--------------|
    | 55..78 | how much farther each ray reaches than a step earlier, by others' motion alone | -10 m   | 10 m         |
    | 79     | free way along the route ahead of the front bumper (0 at 0)                    |         | 34 m or free |
    | 80     | speed along the route of what ends it; 0 where nothing did a step earlier      | -20 m/s | 20, or free  |

    `observation="traffic_timed"` is the same, and last the share of the horizon that is left: 82 numbers. It belongs to
    `finite_horizon=True`: where the horizon truncates, a learner estimates the value beyond it, which time left hides.

    `observation="package.module:Class"`: the `space()` of a class of your own, see
    `ii_world_env.observations.build.Observation` and `examples/own_observation.py`.

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
    | `plan`        | -0.5 × share of the plan behind its first contact; only with `action="waypoints"` |

    `reward="pdms"` is the gated score of NAVSIM per step, in [0, 1], `"pdms_loss"` what it lacks of 1;
    `reward="sparse"` is +1 on arrival and -1 for a collision or for leaving the road. Any callable from
    `Outcome` to named terms, or its "package.module:name", works. One with an attribute `needs_occupancy = False` (or
    `needs_labels = False`, its earlier name) reads no fact of `Contact`: no occupancy is decoded for it, nor with
    `observation="tokens"` for anything else until `env.unwrapped.occupancy` is read, and no episode ends by a collision
    or off the road.

    ## Starting State
    A random recorded keyframe of the split with four frames before it and the horizon after it, at the recorded
    speed. `reset(options=...)` takes the keys below; any other raises `OptionError`.

    | Key         | Meaning                                                                                 |
    |-------------|-----------------------------------------------------------------------------------------|
    | `scene`     | name or number of the scene                                                             |
    | `frame`     | keyframe number in the scene                                                            |
    | `command`   | "right", "left", "straight" or 0..2 instead of the recorded commands                     |
    | `speed_mps` | start speed, 0..20                                                                      |
    | `state`     | a kept `env.unwrapped.state` to go on from; alone                                       |
    | `event`     | a named event: "cut-in", "hard-brake", "jaywalker", "oncoming", "blocked-lane"          |
    | `future`    | "mode" (the most likely drivers) or "sample" (drawn by the seed)                        |
    | `variation` | a dict with any of `speed_mps`, `command`, `action_noise`, `drop_agents`                   |

    `action_noise` (0..1) is the standard deviation of noise on every number of a continuous action; `drop_agents`
    (0..1) the share of the other agents that is taken out, only in "simulated". Events are staged in "geometric" and
    "simulated", see `world_model.worlds.events`; futures differ in "geometric" with traffic that reacts.

    ## Episode End
    Named in `info["end"]` (None while it runs). Terminated: `collision`, `off_road`, `destination` (the recorded
    position at the horizon; only when that is at least 5 m away). Truncated: `horizon`, `route_end` (the recording
    ends), `untrusted` (the forecast trust fell below `least_trust`). With `finite_horizon=True` the horizon terminates.

    Infos have the same keys after a reset as after a step: then `lateral_m` is 0, `time_to_collision_s` is 10 (nothing
    near), `trust` is 1 and the reward terms are 0. `ii_world_env.faces.infos.to_json` writes them as JSON.

    In calibrated learned worlds `info["trust"]` is the expected quality of the forecast after every step, 0 to 1
    (docs/results/trust.md).

    ## Arguments
    | Name          | Default     | Meaning                                                                      |
    |---------------|-------------|------------------------------------------------------------------------------|
    | `world`       | "learned"   | "learned": what the checkpoint holds; "geometric", "ii-world", "occworld",    |
    |               |             | "occsora", "transport", "replay", "simulated" or "package.module:Class"      |
    | `checkpoint`  | None        | folder of a trained model; None is the bundled one; a list makes an ensemble |
    | `index`       | None        | index file of `python -m world_model.prepare`                                |
    | `data_root`   | None        | folder of the data; without `index` and `data_root` the bundled demo scenes  |
    | `split`       | "val"       | "train", "val" or "all"                                                      |
    | `dataset`     | "any"       | or "nuscenes", "stcocc", "waymo", "uniocc": refuse other data                |
    | `action`      | "kinematic" | "kinematic", "delta", "waypoints", "meta" or "command"                       |
    | `observation` | "bev"       | "bev", "occupancy", "tokens", "state", "traffic", "traffic_timed" or          |
    |               |             | "package.module:Class"                                                       |
    | `reward`      | "default"   | "default", "pdms", "pdms_loss", "sparse", a callable or its import path      |
    | `horizon`     | 16          | steps of 0.5 s until truncation                                              |
    | `finite_horizon` | False    | the horizon terminates: nothing lies beyond it                               |
    | `pessimism`   | 0.0         | cost of a step without any forecast trust: term `pessimism`                  |
    | `least_trust` | 0.0         | truncate as `untrusted` below this forecast trust                            |
    | `device`      | "auto"      | "auto", "cpu", "cuda", "cuda:1", ...                                         |
    | `dtype`       | "auto"      | "auto", "float32" or "bfloat16"                                              |
    | `faithful`    | None        | keep the published model's mistakes, for its weights; None: as the checkpoint says |
    | `self_check`  | True        | the geometric world believes what was observed where its network fails on the past |
    | `kept_mib`    | 0           | memory for start states that come again: repeated resets cost a fraction     |
    | `traffic`     | "log-like"  | others in the geometric world: "constant-velocity" column by column, or as   |
    |               |             | whole bodies: "rigid", "replay" (as recorded), "log-like" (they react),      |
    |               |             | "sampled", "aggressive" (they differ by the seed)                            |
    | `agents`      | "voxels"    | where these bodies are known from: "voxels", or the "boxes" of the data set  |
    | `render_mode` | None        | "rgb_array"                                                                  |

    Paths are strings or `pathlib.Path`; `~` is the home folder. Environments of one process share one copy of the
    weights.

    `IIWorld-Waymo-v0` and `IIWorld-STCOcc-v0` are the same environment with `dataset="waymo"` and `dataset="stcocc"`
    (observed: STCOcc's predictions; shown by the "replay" world: the true labels); they need `data_root` or `index`.

    ## Version History
    * v0: first version.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": 2}  # type: ignore[misc]  # Gymnasium's is no ClassVar

    _spec: EnvSpec | None = None

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.episodes = Episodes(EnvConfig.of(options), keep_paths=render_mode is not None)
        self.scenes = self.episodes.scenes
        self.action_space, self.observation_space = self.episodes.action_space, self.episodes.observation_space

    @property
    def spec(self) -> EnvSpec | None:
        """How the environment was made; ``spec.to_json()`` always works unless ``reward`` is a callable."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = plain_spec(spec)

    @property
    def engine(self) -> Engine:
        """What drives: state in, state out; the door to search (docs/howto/search.md)."""
        return self.episodes.engine

    @property
    def state(self) -> State:
        """The engine's state of this moment, a batch of one: keep it, branch from it, give it to a planner.

        `reset(options={"state": state})` goes on from a kept one.

        Raises:
            NoEpisode: before the first reset, a `ResetNeeded` and an `AttributeError`.
        """
        return self.episodes.state

    @property
    def occupancy(self) -> NDArray[Any]:
        """The forecast occupancy (X, Y, Z) uint8 in the current ego frame, a copy."""
        return self.episodes.occupancy(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, also in the middle of another; see the class for the options.

        Raises:
            OptionError: an unknown option or a value that does not fit; the running episode goes on, and the generator
                is where it was.
            gymnasium.error.Error: a seed that is no whole number >= 0; likewise.
            DataError: the labels of the start are missing or damaged.
        """
        generator, number = self.np_random, self.np_random_seed
        super().reset(seed=seed)
        try:
            state = self.episodes.begin([self.np_random], [options])
        except BaseException:
            self._np_random, self._np_random_seed = generator, number
            raise
        infos = self.episodes.set_states([0], state)
        return self._observe(), info_of(infos, 0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drive one step of 0.5 s.

        Raises:
            ActionError: the action has the wrong shape or is not finite; nothing has changed.
            OptionError: an own reward that returned anything but finite named terms; likewise.
            ResetNeeded: the episode has ended or not begun.
        """
        if not self.episodes.begun or self.episodes.ends[0]:
            raise ResetNeeded("Cannot call env.step() before env.reset(), nor after the episode has ended")
        with self.episodes.restore_on_error():
            result = self.episodes.step(self.episodes.action(action))
            observed = self._observe()
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        return observed, float(result.reward[0]), terminated, truncated, info_of(result.infos, 0)

    def render(self) -> NDArray[Any] | None:
        """Bird's eye, perspective, path, route and a line of text, (430, 960, 3) uint8; None without a render mode."""
        if self.render_mode is None:
            logging.getLogger(__name__).warning(
                'render() does nothing: make the environment with render_mode="rgb_array"'
            )
            return None
        return self.episodes.picture(0)

    def close(self) -> None:
        """Drop the episode; closing twice is fine, and a reset begins anew."""
        self.episodes.clear()

    def _observe(self) -> Any:
        observed = self.episodes.observe()
        return {name: value[0] for name, value in observed.items()} if isinstance(observed, dict) else observed[0]


def plain_spec(spec: EnvSpec | None) -> EnvSpec | None:
    """The same with paths as strings, which JSON can hold: ``gym.make`` writes down the keywords as they came."""
    if spec is None:
        return None
    plain = copy.copy(spec)
    plain.kwargs = {name: each_path(value, str) for name, value in spec.kwargs.items()}
    return plain


def check_render_mode(render_mode: str | None) -> None:
    """Refuse what cannot be drawn.

    Raises:
        OptionError: an unknown render mode.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise OptionError(f"render_mode={render_mode!r}", f"None or one of {RENDER_MODES}", "choose one of them")
