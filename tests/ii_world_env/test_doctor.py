"""The doctor: every part of the report, on small worlds, and a failure that is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ii_world_env import doctor as doctor_module
from ii_world_env.doctor import OPTIONAL, REQUIRED, Doctor, doctor, versions


def test_every_dependency_has_a_version() -> None:
    found = versions()
    assert list(found) == ["python", "platform", *REQUIRED, *OPTIONAL]
    # The product itself may run from a source folder.
    assert [name for name in REQUIRED[1:] if found[name] == "not installed"] == []


def test_a_working_installation_ends_with_ok(small_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(Doctor(world="small_worlds:Transport", data_root=small_data, split="all", device="cpu"))
    lines = capsys.readouterr().out.splitlines()
    reported = {line[:20].strip(): line[20:] for line in lines}
    assert lines[-1] == "ok"
    assert str(small_data) in reported["data"] and reported["checkpoint"] == "bundled"
    assert reported["device"].startswith("cpu") and reported["threads"].isdigit()
    assert reported["mean step time"].endswith(f"over {doctor_module.STEPS} steps")


def test_a_failure_is_named_after_the_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not doctor(Doctor(data_root=tmp_path / "nothing"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("python") and "ok" not in lines
    assert any(line.startswith("failed: DataError:") and "nothing" in line for line in lines)


def test_a_broken_package_is_a_failure_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(options: Doctor) -> dict[str, str]:
        raise ImportError("libfoo.so is missing")

    monkeypatch.setattr(doctor_module, "drive", broken)
    assert not doctor(Doctor())
    assert "failed: ImportError: libfoo.so is missing" in capsys.readouterr().out
