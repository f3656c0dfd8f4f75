"""Actions as a user gives them: any numbers of the right shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import ActionError


def real_numbers(values: Any, shape: tuple[int, ...], mode: str) -> NDArray[np.float64]:
    """A float64 copy of actions.

    Raises:
        ActionError: no numbers, or of another shape.
    """
    try:
        array = np.array(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ActionError(f"action {values!r}", f"numbers of shape {shape}", "give an array") from error
    # Numbers in words, complex numbers and dates would go through a cast to float, too.
    if array.dtype.kind not in "biuf":
        raise ActionError(
            f"an action of type {array.dtype}: {values!r}", f"real numbers of shape {shape}", "give an array"
        )
    if array.shape != shape:
        raise ActionError(
            f"an action of shape {array.shape}", f"shape {shape} for action={mode!r}", "see the action space"
        )
    with np.errstate(over="ignore"):  # what is too large for float64 becomes infinite, and is refused as that
        return array.astype(np.float64)
