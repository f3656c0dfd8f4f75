"""Which stored runs are the same run."""

from __future__ import annotations

from pathlib import Path

import pytest

from world_model.core.errors import CheckpointError
from world_model.training.resume import check_identity

LAST = Path("last.pt")
NEW = {"loss": {"teacher_forcing_ratio": 0.3, "memory_ratio": 0.5, "learn": "all"}, "split": "train"}


def test_fields_under_their_former_names_are_the_same_run() -> None:
    before = {"loss": {"taught_share": 0.3, "recalled_share": 0.5, "learn": "all"}, "split": "train"}
    check_identity(LAST, before, NEW)
    before["loss"]["taught_share"] = 0.4
    with pytest.raises(CheckpointError, match=r"loss\.teacher_forcing_ratio: 0\.4 \(now 0\.3\)"):
        check_identity(LAST, before, NEW)


def test_a_switch_that_only_one_version_knows_is_off() -> None:
    check_identity(LAST, NEW, {**NEW, "mirrored": False})
    with pytest.raises(CheckpointError, match="mirrored"):
        check_identity(LAST, NEW, {**NEW, "mirrored": True})
