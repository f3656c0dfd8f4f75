"""What a reset takes beside the options of a start: a kept state, seeds, a mask of who resets, an autoreset mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from ii_world_env.engine import Engine, State
from world_model.core.errors import ConfigError, OptionError
from world_model.core.tensor_state import difference

Seeds = int | Sequence[int | None] | None


class NoEpisode(ResetNeeded, AttributeError):
    """What belongs to an episode was read while there is none.

    Also an `AttributeError`, so that ``hasattr``, ``has_wrapper_attr`` and ``inspect.getmembers`` answer as for any
    attribute that is absent.
    """


def seeds_of(seed: Seeds, count: int) -> list[int | None]:
    """One seed for each of ``count`` environments: seed, seed + 1, ... of a single number.

    Raises:
        gymnasium.error.Error, ValueError: neither a whole number nor one for each environment.
    """
    if seed is None:
        return [None] * count
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + i for i in range(count)]
    if not isinstance(seed, (Sequence, np.ndarray)):
        raise gym.error.Error(f"Seeds must be a whole number or one for each environment, not {type(seed).__name__}")
    # What is no whole number is refused where the generators are made.
    seeds = [int(one) if isinstance(one, np.integer) else one for one in seed]
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for num_envs={count}: give one for each environment, or one number")
    return seeds


def reset_mask(mask: Any, count: int) -> NDArray[Any]:
    """Checked as Gymnasium's own vector environments check it."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"options['reset_mask'] must be a numpy array of dtype bool, not {kind}")
    if mask.shape != (count,) or not mask.any():
        raise ValueError(f"options['reset_mask'] must have shape ({count},) and at least one True, got {mask.tolist()}")
    return mask


def check_count(name: str, value: object) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        ConfigError: names the keyword.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ConfigError(f"{name}={value!r}", "a whole number >= 1", f"give for example {name}=8")


def autoreset_mode_of(mode: str | AutoresetMode) -> AutoresetMode:
    """The mode of a name.

    Raises:
        OptionError: no such mode; lists them.
    """
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        allowed = [each.value for each in AutoresetMode]
        raise OptionError(f"autoreset_mode={mode!r}", f"one of {allowed}", "choose one of them") from error


def kept_state(options: Sequence[Mapping[str, Any] | None], engine: Engine, running: State | None) -> State:
    """The kept state of ``options["state"]``, the same of all R environments.

    Args:
        options: (R,) reset options.
        engine: that goes on from it.
        running: a state of the environments now, which the kept one must resemble; None before the first reset.

    Raises:
        OptionError: no state, one of other environments, or other options beside it.
    """
    first = options[0] if isinstance(options[0], Mapping) else {}
    state, wanted = first.get("state"), f"a State of {len(options)} environments and no other option"
    if len(first) > 1 or not isinstance(state, State):
        found = f"state of type {type(state).__name__}" if len(first) == 1 else f"options {list(first)}"
        raise OptionError(found, wanted, "keep env.unwrapped.state, or State.load() one")
    width, grid = engine.action_mode.width, engine.world.grid
    labels = (*state.ground.shape, grid.shape[2]) if state.decoded is None else tuple(state.decoded.shape)
    found_shapes = labels, tuple(state.last_action.shape)
    shapes = (len(options), *grid.shape), (len(options), width)
    if found_shapes != shapes:
        raise OptionError(
            f"a state with labels {found_shapes[0]} and actions {found_shapes[1]}",
            f"{wanted}: labels {shapes[0]}, actions {shapes[1]}",
            "index() or expand() it, or make the environment as it was when the state was kept",
        )
    if running is not None and (other := difference(running, state)):
        raise OptionError(
            f"the state of another environment: {other}", wanted, "keep it from an environment made like this one"
        )
    return state
