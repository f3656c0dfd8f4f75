"""Rolling scenes forward from the command line: the right motion, whole files, and nothing done twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from world_model.core.errors import DataError, OptionError
from world_model.core.files import write_npz
from world_model.core.grid import CLASS_ID, FREE
from world_model.data.clips import load_clips
from world_model.data.index import SceneIndex
from world_model.data.labels import read_labels
from world_model.generate import Generate, generate
from world_model.generation.drive import drive
from world_model.generation.generate import decisive
from world_model.generation.output import contents
from world_model.generation.trajectories import Edit, parse_trajectory
from world_model.visualize import Visualize, visualize
from world_model.worlds.build import build_world

FRAMES = 8


def picture(path: Path) -> tuple[int, int, int]:
    """Width, height and number of frames of an image file."""
    with Image.open(path) as image:
        return (*image.size, getattr(image, "n_frames", 1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of eight frames: 2 m forward and 0.05 rad to the left a step, past one car that stands still."""
    root = tmp_path_factory.mktemp("data")
    yaw = np.arange(FRAMES) * 0.05
    steps = np.stack((np.cos(yaw), np.sin(yaw)), 1) * 2
    place = np.cumsum(steps, 0) - steps + np.array((500.0, 900.0))
    paths = []
    for scene in range(2):
        for frame in range(FRAMES):
            labels = np.full((200, 200, 16), FREE, np.uint8)
            labels[60:140, 80:120, 2] = CLASS_ID["driveable_surface"]
            labels[130 - 5 * frame : 140 - 5 * frame, 84:90, 3:7] = CLASS_ID["car"]
            paths.append(f"gts/scene-{scene}/{frame}/labels.npz")
            write_npz(root / paths[-1], semantics=labels)
    count = 2 * FRAMES
    rotation = np.stack((np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)), 1)
    SceneIndex(
        root=root,
        source="synthetic",
        scene_name=np.array(["scene-0", "scene-1"]),
        scene_split=np.array(["train", "val"]),
        scene_start=np.array([0, FRAMES, count]),
        token=np.array([f"t{i}" for i in range(count)]),
        label_path=np.array(paths),
        timestamp_us=np.tile(np.arange(FRAMES) * 500_000, 2),
        translation_m=np.tile(np.concatenate((place, np.zeros((FRAMES, 1))), 1), (2, 1)),
        rotation=np.tile(rotation, (2, 1)),
        command=np.full(count, 2, np.int8),
        motion=np.zeros((count, 3), np.float32),
        box_start=np.zeros(count + 1, np.int64),
        box_center_m=np.zeros((0, 3), np.float32),
        box_size_m=np.zeros((0, 3), np.float32),
        box_yaw_rad=np.zeros(0, np.float32),
        box_velocity_mps=np.zeros((0, 2), np.float32),
        box_class=np.zeros(0, np.uint8),
        box_instance=np.zeros(0, np.int64),
    ).save(root / "iiworld_index.npz")
    return root


def test_the_log_replayed_is_the_log(data: Path, tmp_path: Path) -> None:
    options = Generate(index=data, world="replay", frame=2, steps=3, out=tmp_path, scene=("scene-1",))
    (folder,) = generate(options)
    index = SceneIndex.load(data)
    with np.load(folder / "forecast.npz") as archive:
        occupancy, poses = archive["occupancy"], archive["ego_to_global"]
    clips = load_clips(index, [FRAMES + 2], future=3, with_future_labels=True)
    assert clips.future_occupancy is not None
    assert (occupancy == clips.future_occupancy[0].numpy()).all()
    assert np.allclose(poses, index.ego_to_global[FRAMES + 2 : FRAMES + 6])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 3 and summary["distance_m"] == pytest.approx(6)
    for name in contents(options)[1:-1]:
        assert picture(folder / name)[0] > 300
    assert picture(folder / "drive.gif")[2] == 4


def test_a_given_trajectory_is_followed(data: Path) -> None:
    clips = load_clips(SceneIndex.load(data), [4], future=3, with_future_labels=True)
    motions = np.array([(4.0, 0.0, np.pi / 2), (3.0, 0.0, 0.0), (0.0, 0.0, 0.0)])
    done: list[int] = []
    rollout = drive(build_world("transport"), clips, 3, motions=motions, progress=done.append)
    poses = rollout.ego_pose[0].numpy()
    relative = np.linalg.inv(poses[0]) @ poses
    assert np.allclose(relative[:, :2, 3], [(0, 0), (4, 0), (4, 3), (4, 3)])
    assert np.allclose(np.arctan2(relative[:, 1, 0], relative[:, 0, 0]), [0, np.pi / 2, np.pi / 2, np.pi / 2])
    assert (rollout.occupancy[3] == rollout.occupancy[2]).all()
    assert done == [1, 2, 3]


def test_finished_scenes_are_skipped_and_others_are_not(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Generate(index=data, world="transport", frame=5, steps=1, out=tmp_path, scene=("all",))
    first, second = generate(options)
    before = (first / "forecast.npz").stat().st_mtime_ns
    (second / "drive.gif").unlink()  # as if it had been stopped in the middle
    capsys.readouterr()
    assert generate(options) == [first, second]
    said = capsys.readouterr().out
    assert said.count("already there") == 1
    assert (first / "forecast.npz").stat().st_mtime_ns == before and (second / "drive.gif").exists()
    generate(dataclasses.replace(options, steps=2, scene=("scene-0",)))  # another question: not the same answer
    assert json.loads((first / "summary.json").read_text())["steps"] == 2


def test_new_weights_are_another_question(data: Path, tmp_path: Path) -> None:
    index = SceneIndex.load(data)
    options = Generate(checkpoint=tmp_path)
    (tmp_path / "geometric.safetensors").write_bytes(b"one")
    before = decisive(options, index, "scene-0")
    assert before["world"] == "geometric" and before["weights"]
    (tmp_path / "tokenizer.safetensors").write_bytes(b"not what the geometric world is made of")
    assert decisive(options, index, "scene-0") == before
    (tmp_path / "geometric.safetensors").write_bytes(b"two")
    assert decisive(options, index, "scene-0") != before


def test_steps_end_with_the_log(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = generate(Generate(index=data, world="transport", frame=5, steps=16, out=tmp_path))
    assert "2 steps instead of 16" in capsys.readouterr().out
    with np.load(folder / "forecast.npz") as archive:
        assert archive["occupancy"].shape == (2, 200, 200, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scene": ("scene-9",)}, "scene-0, scene-1"),
        ({"frame": 99}, "0..7"),
        ({"frame": 7}, "last of the scene"),
        ({"control": "left"}, "no motion model"),
        ({"split": "test"}, "train"),
    ],
)
def test_bad_options_are_named(data: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises((OptionError, DataError), match=message):
        generate(Generate(index=data, world="transport", out=tmp_path, **options))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_contradicting_options_are_refused() -> None:
    both = ({"control": "left", "trajectory": "1,0,0"}, {"control": "left", "edit": Edit(mirror=True)})
    for options in ({"steps": 0}, {"control": "fine"}, *both):
        with pytest.raises(OptionError):
            Generate(**options)  # type: ignore[arg-type]


def test_trajectories_from_text_and_from_file(tmp_path: Path) -> None:
    expected = [(4, 0, 0), (3.5, 0.25, -0.1)]
    assert np.array_equal(parse_trajectory("4,0,0; 3.5,0.25,-0.1"), expected)
    (tmp_path / "a.csv").write_text("dx, dy, dyaw\n4,0,0\n\n3.5,0.25,-0.1\n")
    assert np.array_equal(parse_trajectory(str(tmp_path / "a.csv")), expected)


@pytest.mark.parametrize("text", ["", " ; ", "1,2", "1,2,x", "1,2,nan", "1,0,0;1,inf,0", "dx,dy,dyaw", "missing.csv"])
def test_bad_trajectories_say_what_is_expected(text: str) -> None:
    with pytest.raises(OptionError, match="dx,dy,dyaw"):
        parse_trajectory(text)


def test_sampled_and_edited_drives_leave_the_log_behind(data: Path, tmp_path: Path) -> None:
    plain = Generate(index=data, world="transport", frame=5, steps=6, out=tmp_path, pictures=False, film="none")
    (sampled,) = generate(dataclasses.replace(plain, control="sampled", seed=2))
    (other,) = generate(dataclasses.replace(plain, control="sampled", seed=3))
    (edited,) = generate(dataclasses.replace(plain, edit=Edit(speed=0.5)))
    poses = {}
    for folder in (sampled, other, edited):
        assert {p.name for p in folder.iterdir()} == {"forecast.npz", "summary.json"}
        with np.load(folder / "forecast.npz") as archive:
            assert archive["occupancy"].shape == (6, 200, 200, 16)  # only two recorded frames follow
            poses[folder] = archive["ego_to_global"]
    assert not np.allclose(poses[sampled], poses[other])
    moved = np.linalg.norm(np.diff(poses[edited][:, :3, 3], axis=0), axis=1)
    assert np.allclose(moved, 1.0, atol=1e-3)


def test_a_forecast_can_be_driven_again_in_another_world(data: Path, tmp_path: Path) -> None:
    plain = Generate(index=data, world="transport", frame=3, steps=4, out=tmp_path, pictures=False, film="none")
    (first,) = generate(plain)
    again = dataclasses.replace(plain, trajectory=str(first / "forecast.npz"), world="replay", out=tmp_path / "again")
    (second,) = generate(again)
    with np.load(first / "forecast.npz") as a, np.load(second / "forecast.npz") as b:
        assert np.allclose(a["ego_to_global"], b["ego_to_global"])
        assert (a["occupancy"] != b["occupancy"]).any()
    before = (second / "summary.json").stat().st_mtime_ns
    generate(again)
    assert (second / "summary.json").stat().st_mtime_ns == before
    generate(dataclasses.replace(plain, steps=2, overwrite=True))  # the file changes under its name
    assert generate(again) != [second]


def test_commands_follow_the_given_motion(data: Path) -> None:
    clips = load_clips(SceneIndex.load(data), [4], future=8, with_future_labels=True)
    left = np.tile((3.0, 0.0, 0.15), (8, 1))
    for motions, command in ((left, 1), (left * (1, 1, -1), 0), (left * (1, 1, 0), 2)):
        rollout = drive(build_world("transport"), clips, 8, motions=motions)
        assert rollout.commands[0, 0] == command
    with pytest.raises(OptionError, match="8 steps"):
        drive(build_world("transport"), clips, 8, motions=left[:5])


def test_each_step_as_labels_that_can_be_seen(data: Path, tmp_path: Path) -> None:
    (folder,) = generate(
        Generate(index=data, world="replay", frame=5, steps=2, out=tmp_path, pictures=False, film="none", labels=True)
    )
    single = folder / "labels" / "002" / "labels.npz"
    with np.load(single) as one, np.load(folder / "forecast.npz") as all_of_them:
        assert (one["semantics"] == all_of_them["occupancy"][1]).all()
    recorded = data / "gts/scene-0/7/labels.npz"
    assert (read_labels(single) == read_labels(recorded)).all()
    (drawn,) = visualize(Visualize(file=single, against=recorded, out=tmp_path / "two", height=200, view="bev"))
    assert picture(drawn)[1] > 2 * 200


def test_one_npz_becomes_a_picture(data: Path, tmp_path: Path) -> None:
    labels = data / "gts/scene-0/3/labels.npz"
    (drawn,) = visualize(Visualize(file=labels, out=tmp_path / "frame", height=200))
    assert drawn == tmp_path / "frame.png" and picture(drawn)[0] > 400
    (narrow,) = visualize(Visualize(file=labels, out=tmp_path / "bev", height=200, view="bev"))
    assert picture(narrow)[0] == 200


def test_masks_hide_what_was_not_seen_and_other_formats_are_known(data: Path, tmp_path: Path) -> None:
    labels = read_labels(data / "gts/scene-0/3/labels.npz")
    seen = np.zeros_like(labels)
    write_npz(tmp_path / "masked.npz", semantics=labels, mask_camera=seen, mask_lidar=seen + 1)
    pictures = {}
    for mask in ("none", "lidar", "camera"):
        file = tmp_path / "masked.npz"
        (drawn,) = visualize(Visualize(file=file, out=tmp_path / mask, height=200, view="bev", mask=mask))  # type: ignore[arg-type]
        pictures[mask] = np.asarray(Image.open(drawn))
    assert (pictures["lidar"] == pictures["none"]).all() and (pictures["camera"] != pictures["none"]).any()
    waymo = np.where(labels == FREE, 23, np.where(labels == CLASS_ID["car"], 1, 13)).astype(np.uint8)
    write_npz(tmp_path / "000_04.npz", voxel_label=waymo)
    (drawn,) = visualize(Visualize(file=tmp_path / "000_04.npz", height=200, view="bev"))
    assert (np.asarray(Image.open(drawn)) == pictures["none"]).all()


def test_one_moment_of_a_forecast_in_full_size(data: Path, tmp_path: Path) -> None:
    (folder,) = generate(
        Generate(index=data, world="transport", frame=5, steps=2, out=tmp_path, pictures=False, film="none")
    )
    file = folder / "forecast.npz"
    (drawn,) = visualize(Visualize(file=file, out=tmp_path / "one", moment=1, height=300))
    assert drawn.name == "one_001.png" and picture(drawn)[0] == 400 + 6 + 200
    with pytest.raises(OptionError, match=r"0\.\.2"):
        visualize(Visualize(file=file, moment=3))
    with pytest.raises(OptionError, match="forecast"):
        visualize(Visualize(file=data / "gts/scene-0/3/labels.npz", moment=3))
    with pytest.raises(DataError, match="one kind"):
        visualize(Visualize(file=file, against=data / "gts/scene-0/3/labels.npz"))
    two = visualize(Visualize(file=file, against=file, out=tmp_path / "two", view="bev", film="none"))
    assert [p.name for p in two] == ["two.png"]


def test_a_forecast_becomes_strips_and_a_film(data: Path, tmp_path: Path) -> None:
    (folder,) = generate(Generate(index=data, world="transport", frame=5, steps=2, out=tmp_path))
    written = visualize(Visualize(file=folder / "forecast.npz", out=tmp_path / "seen"))
    assert [p.name for p in written] == ["seen.png", "seen_3d.png", "seen.gif"]
    assert picture(written[2])[2] == 3


def test_files_that_cannot_be_shown_are_named(tmp_path: Path) -> None:
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    write_npz(tmp_path / "other.npz", numbers=np.zeros(3))
    write_npz(tmp_path / "odd.npz", occupancy=np.full((1, 4, 4, 2), 99), ego_to_global=np.zeros((2, 4, 4)))
    write_npz(tmp_path / "short.npz", occupancy=np.zeros((1, 4, 4, 2), np.uint8), ego_to_global=np.zeros((1, 4, 4)))
    for name in ("missing.npz", "torn.npz", "other.npz", "odd.npz", "short.npz"):
        with pytest.raises(DataError, match=name):
            visualize(Visualize(file=tmp_path / name))
