"""Faster recordings are brought to half seconds in every format; what cannot be is refused, in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from formats.nuscenes import edit_infos, edit_table, write_infos, write_stcocc
from formats.uniocc import write_uniocc
from formats.waymo import write_waymo
from street import SMALL
from tiny_scenes import T0_US, write_scenes

import ii_world_env  # noqa: F401
from world_model.core.errors import DataError, OutputError
from world_model.data.clips import load_clips
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.index import SceneIndex
from world_model.prepare import Prepare, prepare

SHAPE = (8, 8, 4)


def scenes(root: Path, hertz: float, frames: int) -> Path:
    return write_scenes(root, frames=(frames, frames), shape=SHAPE, hertz=hertz)


def faster_infos(root: Path, hertz: float, frames: int) -> Path:
    """Info files whose clock alone runs faster."""
    write_infos(root, frames=(frames, frames), shape=SHAPE)

    def retimed(infos: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{**info, "timestamp": T0_US + round((n % frames) * 1e6 / hertz)} for n, info in enumerate(infos)]

    for file in root.glob("*.pkl"):
        edit_infos(file, retimed)
    return root


def faster_stcocc(root: Path, hertz: float, frames: int) -> Path:
    write_stcocc(root, frames=(frames, frames), shape=SHAPE)
    times = [T0_US + round(n * 1e6 / hertz) for n in range(frames)] * 2
    edit_table(root, "sample", lambda rows: [{**row, "timestamp": t} for row, t in zip(rows, times, strict=True)])
    return root


WRITERS: dict[str, Callable[[Path, float, int], Path]] = {
    "nuscenes": scenes,
    "infos": faster_infos,
    "stcocc": faster_stcocc,
    "uniocc": lambda root, hertz, frames: write_uniocc(root, f"Town-{hertz:g}Hz-val", frames=(frames,) * 2, grid=SMALL),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_sixth_of_twelve_hertz(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = WRITERS[name](tmp_path, 12.0, 26)
    chosen = "stcocc" if name == "stcocc" else "auto"
    if name != "uniocc":  # whose folder names the rate, so that it always was thinned
        with pytest.raises(DataError, match=r"0\.0833 s apart \(12 a second\)") as caught:
            prepare(Prepare(data_root=root, format=chosen))
        assert "--resample 2" in caught.value.remedy
    index = prepare(Prepare(data_root=root, format=chosen, resample=2, strict=True))
    assert np.diff(index.scene_start).tolist() == [5, 5]
    numbers = [int(str(token).replace("/", "-").rsplit("-", 1)[1]) for token in index.token]
    assert numbers == [0, 6, 12, 18, 24] * 2
    for frame, token in enumerate(index.token):
        assert str(token).split("-")[-1].split("/")[-1] in str(index.label_path[frame])
        assert len(index.boxes(frame).class_id) == 2
    loaded = SceneIndex.load(root)
    assert loaded.step_s == pytest.approx(0.5) and "frames 0.5 s apart (2 a second)" in capsys.readouterr().out
    assert loaded.recorded_step_s == pytest.approx(0.5 if name == "uniocc" else 1 / 12, abs=1e-6)


def test_resampled_is_as_if_recorded_so(tmp_path: Path) -> None:
    """The same drive at 12 Hz and at 2 Hz: poses, boxes, speeds, commands; steps of half a second in clips."""
    fast = prepare(Prepare(data_root=scenes(tmp_path / "fast", 12.0, 49), resample=2))
    slow = prepare(Prepare(data_root=scenes(tmp_path / "slow", 2.0, 9)))
    for name in ("scene_start", "timestamp_us", "box_start", "box_class", "box_instance", "command"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name))
    for name in ("translation_m", "rotation", "motion", "box_center_m", "box_yaw_rad", "box_velocity_mps"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), atol=1e-4)
    assert fast.fingerprint != slow.fingerprint and fast.labels_digest != slow.labels_digest
    clips = load_clips(fast, [4], future=4, grid=dataclasses.replace(SMALL, shape=SHAPE))
    np.testing.assert_allclose(clips.dt_s, 0.5, atol=1e-5)


def test_ten_hertz_of_waymo_is_thinned_as_ever(tmp_path: Path) -> None:
    root = write_waymo(tmp_path, frames=(28, 30), grid=SMALL)
    plain, asked = (prepare(Prepare(data_root=root, resample=n)) for n in (None, 2))
    assert plain.fingerprint == asked.fingerprint and plain.step_s == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("resample", [None, 2])
@pytest.mark.parametrize(
    ("name", "hertz", "says"), [("nuscenes", 1.0, "1 s apart"), ("infos", 1.0, "1 s apart"), ("uniocc", 1, "1 s apart")]
)
def test_one_hertz_is_refused(name: str, hertz: float, says: str, resample: None, tmp_path: Path) -> None:
    root = WRITERS[name](tmp_path, hertz, 5)
    with pytest.raises(DataError, match=says) as caught:
        prepare(Prepare(data_root=root, resample=resample))
    assert "cannot be made up" in caught.value.remedy and not list(root.glob("*.npz"))


def test_odd_rates(tmp_path: Path) -> None:
    """5 Hz: the frame nearest to each half second, and no drift; 3 Hz has none near enough."""
    index = prepare(Prepare(data_root=scenes(tmp_path / "5", 5.0, 31), resample=2))
    time_s = (index.timestamp_us[index.frames(0)] - T0_US) * 1e-6
    assert np.abs(time_s - 0.5 * np.arange(len(time_s))).max() < 0.1 + 1e-6 and len(time_s) == 13
    assert prepare(Prepare(data_root=write_uniocc(tmp_path, "Town-5Hz-val", frames=(11, 11)), resample=2)).step_s < 0.61
    with pytest.raises(DataError, match=r"0\.333 s apart.*none lie 0\.5 s apart"):
        prepare(Prepare(data_root=scenes(tmp_path / "3", 3.0, 9), resample=2))


def test_only_frames_with_labels_are_chosen(tmp_path: Path) -> None:
    """12 Hz tables whose labels exist at every sixth frame from the second on, as of keyframes; then with holes."""
    root = scenes(tmp_path, 12.0, 62)
    for path in root.glob("gts/*/*/labels.npz"):
        if int(path.parent.name.rsplit("-", 1)[1]) % 6 != 2:
            path.unlink()
    index = prepare(Prepare(data_root=root, resample=2, strict=True))
    assert [int(t.rsplit("-", 1)[1]) for t in index.token[index.frames(0)]] == list(range(2, 62, 6))
    (root / "gts/scene-9001/scene-9001-26/labels.npz").unlink()
    index = prepare(Prepare(data_root=root, resample=2))
    assert index.scene_name.tolist() == ["scene-9001", "scene-9001#2", "scene-9002"]
    assert np.diff(index.scene_start).tolist() == [4, 5, 10]


def test_missing_frames_of_a_fast_recording_cut_it(tmp_path: Path) -> None:
    data = read_nuscenes(scenes(tmp_path, 10.0, 61))
    first = data.recordings[0]
    times = first.timestamp_us + np.where(np.arange(61) >= 23, 1_000_000, 0)
    index, report = dataclasses.replace(
        data, recordings=[dataclasses.replace(first, timestamp_us=times), data.recordings[1]]
    ).to_index(to_two_hertz=True)
    assert report.broken_steps == 1 and report.cut_scenes == 1
    assert [int(t.rsplit("-", 1)[1]) for t in index.token[:13]] == [0, 5, 10, 15, 20, *range(23, 61, 5)]
    follows = np.arange(61) != 33  # the data themselves say that something is missing there
    index, report = dataclasses.replace(data, recordings=[dataclasses.replace(first, follows=follows)]).to_index(
        to_two_hertz=True
    )
    assert report.broken_steps == 1 and np.diff(index.scene_start).tolist() == [7, 6]


def test_one_fast_scene_among_others_is_named(tmp_path: Path) -> None:
    data = read_nuscenes(write_scenes(tmp_path, frames=(12, 8), shape=SHAPE, hertz=2.0))
    fast = dataclasses.replace(data.recordings[1], timestamp_us=T0_US + np.arange(8) * 100_000)
    mixed = dataclasses.replace(data, recordings=[data.recordings[0], fast])
    with pytest.raises(DataError, match=r"scene-9002 are typically 0\.1 s apart"):
        mixed.to_index()
    assert np.diff(mixed.to_index(to_two_hertz=True)[0].scene_start).tolist() == [12, 2]


def test_indexes_of_other_rates_are_refused(tmp_path: Path) -> None:
    """Written before `prepare` measured the rate: they would be scored as if they were 2 Hz."""
    index = read_nuscenes(scenes(tmp_path, 2.0, 6)).to_index()[0]
    dataclasses.replace(index, timestamp_us=(index.timestamp_us - T0_US) // 6 + T0_US).save(tmp_path / "old.npz")
    with pytest.raises(DataError, match="12 a second") as caught:
        SceneIndex.load(tmp_path / "old.npz")
    assert "--resample 2" in caught.value.remedy


def test_an_environment_steps_by_half_seconds(tmp_path: Path) -> None:
    """A vehicle recorded at 12 Hz that drives 4 m/s is 2 m further after a step."""
    root = write_scenes(tmp_path, frames=(121,), shape=SMALL.shape, splits=False, hertz=12.0)
    (root / "splits.json").write_text('{"train": [], "val": ["scene-9001"]}')
    prepare(Prepare(data_root=root, resample=2))
    env = gym.make("IIWorld-nuScenes-v0", data_root=root, world="small_worlds:Replay", action="delta", horizon=3)
    env.reset(seed=0)
    assert env.unwrapped.state.speed_mps.item() == pytest.approx(4.0, abs=0.05)  # type: ignore[attr-defined]
    env.close()


def test_an_unwritable_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "data" / "v1.0-mini").mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        prepare(Prepare(data_root=tmp_path / "data", format="nuscenes", out=tmp_path / "file" / "index.npz"))
