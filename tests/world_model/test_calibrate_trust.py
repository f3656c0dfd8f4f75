"""The command refuses what no calibration can come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from street import write_street

from world_model.calibrate_trust import CalibrateTrust, calibrate_trust
from world_model.core.errors import DataError, OptionError


def test_too_few_scenes_and_bad_options_are_refused(tmp_path: Path) -> None:
    for bad in ({"steps": 0}, {"stride": 0}):
        with pytest.raises(OptionError):
            CalibrateTrust(**bad)  # type: ignore[arg-type]
    data = write_street(tmp_path / "data", scenes=1, frames=6)
    with pytest.raises(DataError, match="longer scenes"):
        calibrate_trust(CalibrateTrust(index=data, steps=12, work=tmp_path / "work", out=tmp_path / "trust.json"))
    assert not (tmp_path / "trust.json").exists()
