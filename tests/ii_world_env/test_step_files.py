"""How far a reader has to go to follow one step."""

from __future__ import annotations

import pytest
from step_files import files_of_step

MOST = {"transport": 16, "geometric": 30}
"""Files of ours on the way of one `env.step`, by world; lower a number when it can be."""


@pytest.mark.parametrize("world", sorted(MOST))
def test_a_step_passes_through_few_files(world: str) -> None:
    found = files_of_step(world, "bev")
    assert len(found) <= MOST[world], "\n".join(found)
    ours = [file for file in found if file.startswith("ii_world_env/")]
    assert len(ours) <= 11, "\n".join(ours)
