"""Saved drives go on where they were; what is damaged or hostile is refused in words."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ii_world_env.faces.config import EnvConfig
from ii_world_env.view.drives import saved
from ii_world_env.view.drives.saved import Frames, is_drive, load_drive, open_files, save_drive
from ii_world_env.view.drives.session import Begin, Session
from ii_world_env.view.page.serve import source_of
from world_model.core.errors import DataError, IIWorldError
from world_model.core.grid import FREE
from world_model.pictures.npz_files import read_forecast


@pytest.fixture(scope="module")
def driven() -> Session:
    session = Session(Begin(config=EnvConfig(world="transport"), scene="scene-0132", beside=("replay",)))
    for keys in ({"up"}, {"left"}, set()):
        session.step_keys(keys)
    session.seek(1)
    session.step_keys({"down"})
    return session


@pytest.fixture
def file(driven: Session, tmp_path: Path) -> Path:
    return save_drive(tmp_path / "drive.npz", driven)


def test_a_saved_drive_is_driven_again_to_the_bit(driven: Session, file: Path) -> None:
    assert is_drive(file)
    again = source_of((file,), Begin(config=EnvConfig()))
    assert isinstance(again, Session) and again.start == driven.start and again.place == driven.place
    assert len(again.drive.moments) == len(driven.drive.moments) and len(again.drive.branches) == 2
    for ours, theirs in zip(driven.drive.moments, again.drive.moments, strict=True):
        one, other = driven.drive.lead.at(ours).state, again.drive.lead.at(theirs).state
        assert torch.equal(one.pose, other.pose) and torch.equal(one.labels, other.labels)
    assert [picture.title for picture in again.pictures()] == [picture.title for picture in driven.pictures()]
    again.step_keys({"up"})


def test_a_saved_drive_is_a_forecast_too(driven: Session, file: Path) -> None:
    forecast = read_forecast(file)
    assert len(forecast.labels) == 3 and (forecast.labels[-1] == driven.pictures()[0].labels).all()
    frames = source_of((file, file), Begin(config=EnvConfig()))
    assert isinstance(frames, Frames) and frames.place == (0, 3)
    assert frames.forth() and frames.forth() and not frames.forth() and frames.back()
    frames.seek(99)
    assert frames.place == (2, 3) and (frames.pictures()[1].labels == driven.pictures()[0].labels).all()
    assert len(frames.pictures()[0].path)


def test_labels_and_their_ground_truth_open_side_by_side(tmp_path: Path) -> None:
    labels = np.full((200, 200, 16), FREE, np.uint8)
    labels[..., 2] = 11
    for name in ("prediction", "truth"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "labels.npz", semantics=labels)
    frames = open_files(tuple(tmp_path / name / "labels.npz" for name in ("prediction", "truth")))
    assert frames.titles == ["prediction/labels.npz", "truth/labels.npz"] and frames.place == (0, 1)
    assert (frames.pictures()[0].labels == labels).all() and not frames.text()


def spoiled(file: Path, **changes: Any) -> Path:
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, value in changes.items():
        if name == "meta":
            arrays["drive"] = np.array(json.dumps(json.loads(str(arrays["drive"])) | value))
        else:
            arrays[name] = value
    np.savez(file, **arrays)
    return file


@pytest.mark.parametrize(
    "changes",
    [
        {"parent": np.array([0, 5, 1, 1])},
        {"parent": np.array([0, -1, 1, 1])},
        {"parent": np.zeros((2, 2), np.int64)},
        {"now": np.array(77)},
        {"action": np.zeros((4, 9))},
        {"action": np.full((4, 2), np.nan)},
        {"drive": np.array("{")},
        {"drive": np.array("[" * 100000)},
        {"meta": {"world": "small_worlds:Transport"}},
        {"meta": {"world": "os:system"}},
        {"meta": {"scene": "elsewhere"}},
        {"meta": {"horizon": 10**9}},
        {"meta": {"frame": "4"}},
        {"meta": {"beside": [1]}},
    ],
    ids=str,
)
def test_hostile_drives_are_refused(file: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(IIWorldError):
        load_drive(spoiled(file, **changes), EnvConfig())


def test_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    nonsense, pickled = tmp_path / "a.npz", tmp_path / "b.npz"
    nonsense.write_bytes(b"PK\x03\x04" + bytes(100))
    np.savez(pickled, semantics=np.array([print], dtype=object))
    for path in (nonsense, pickled, tmp_path / "none.npz", tmp_path):
        with pytest.raises(DataError):
            source_of((path,), Begin(config=EnvConfig()))
    monkeypatch.setattr(saved, "LARGEST_BYTES", 1000)
    assert zipfile.is_zipfile(file)
    with pytest.raises(DataError, match="unpacks to"):
        source_of((file,), Begin(config=EnvConfig()))
