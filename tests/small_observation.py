"""An observation of a user's own, for ``observation="small_observation:Speed"``."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from ii_world_env.engine import State


class Speed:
    """The speed alone, m/s."""

    needs_occupancy = False

    def __init__(self, **_: Any) -> None:
        pass

    def space(self) -> spaces.Box:
        return spaces.Box(-20, 20, (1,), np.float32)

    def observe(self, state: State) -> Tensor:
        return state.speed_mps[:, None]
