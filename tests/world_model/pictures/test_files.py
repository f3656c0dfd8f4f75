"""Strips and films: everything has its place, nothing flickers, nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from world_model.core.errors import ConfigError, OutputError
from world_model.core.grid import CLASS_COLORS, FREE, VoxelGrid
from world_model.pictures.drive import drive_film, drive_strip, path_from, scene_picture
from world_model.pictures.strip import beside, caption, legend, strip
from world_model.pictures.video import write_gif, write_png

SMALL = VoxelGrid(shape=(20, 20, 8), lower_m=(-4, -4, -1))


def test_png_comes_back_as_it_was(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "deep" / "a.png", picture)
    with Image.open(tmp_path / "deep" / "a.png") as image:
        assert (np.asarray(image) == picture).all()


def test_a_film_has_its_frames_and_its_pace_and_does_not_flicker(tmp_path: Path) -> None:
    base = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    frames = [base.copy() for _ in range(4)]
    for i, frame in enumerate(frames):
        frame[:, :8] = (i * 60, 255 - i * 50, 90)  # one part changes, the other must keep its colours exactly
    write_gif(tmp_path / "a.gif", frames, fps=4, hold_s=1)
    seen, times = [], []
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 4 and film.size == (40, 30) and film.info["loop"] == 0
        for i in range(4):
            film.seek(i)
            times.append(film.info["duration"])
            seen.append(np.asarray(film.convert("RGB")))
    assert times == [250, 250, 250, 1250]
    assert all((s[:, 8:] == seen[0][:, 8:]).all() for s in seen)
    assert all(np.abs(s[:, :8].astype(int) - f[:, :8]).max() < 40 for s, f in zip(seen, frames, strict=True))


def test_bad_pictures_are_refused_and_the_earlier_file_stays(tmp_path: Path) -> None:
    good = np.zeros((4, 4, 3), np.uint8)
    path = write_gif(tmp_path / "a.gif", [good])
    before = path.read_bytes()
    for bad in ([], [good, np.zeros((5, 4, 3), np.uint8)], [good.astype(np.float32)], [good[..., 0]]):
        with pytest.raises(ConfigError):
            write_gif(path, bad)
    with pytest.raises(ConfigError):
        write_png(path, good[..., 0])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="could not write"):
        write_png(tmp_path / "file" / "a.png", np.zeros((4, 4, 3), np.uint8))


def test_a_strip_holds_every_picture_unchanged() -> None:
    random = np.random.default_rng(0)
    pictures = [[random.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(3)] for _ in range(2)]
    table = strip(
        [[*pictures[0]], [pictures[1][0], None, pictures[1][2]]], columns=list("abc"), labels=["x", "y"], title="t"
    )

    def places(wanted: np.ndarray) -> int:
        first = np.argwhere((table[:-19, :-29] == wanted[0, 0]).all(-1))
        return sum((table[i : i + 20, j : j + 30] == wanted).all() for i, j in first)

    assert all(places(p) == 1 for p in (*pictures[0], pictures[1][0], pictures[1][2]))
    assert places(pictures[1][1]) == 0


def test_a_strip_of_several_sizes_is_refused() -> None:
    with pytest.raises(ConfigError, match="one size"):
        strip([[np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]])
    with pytest.raises(ConfigError):
        strip([[None]])


def test_the_legend_shows_every_class_in_any_width() -> None:
    for width in (120, 400, 1500):
        picture = legend(width)
        assert picture.shape[1] == width
        colors = {tuple(c) for c in picture.reshape(-1, 3).tolist()}
        assert {CLASS_COLORS[c] for c in range(FREE)} <= colors


def test_captions_and_neighbours_keep_the_pictures() -> None:
    picture = np.full((60, 80, 3), 200, np.uint8)
    written = caption(picture, "hello")
    assert (picture == 200).all() and written.shape == picture.shape
    assert (written != picture).any() and (written[40:] == 200).all()
    pair = beside(picture, np.full((20, 10, 3), 100, np.uint8))
    assert pair.shape == (60, 80 + 6 + 10, 3)
    assert (pair[:, :80] == 200).all() and (pair[20:40, -10:] == 100).all()


def test_paths_are_seen_from_the_pose() -> None:
    angle = 0.7
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, :2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    poses[:, :2, 3] = np.arange(3)[:, None] * 2 * np.array((np.cos(angle), np.sin(angle))) + 100
    assert np.allclose(path_from(poses, 0), [(0, 0), (2, 0), (4, 0)])
    assert np.allclose(path_from(poses, 1, 1), [(0, 0), (2, 0)])


def test_a_drive_gives_a_film_and_strips() -> None:
    labels = np.full((3, *SMALL.shape), FREE, np.uint8)
    labels[:, :, :, 2] = 11
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = (0, 1, 2)
    film = drive_film(list(labels), poses, title="x", height=90, grid=SMALL)
    assert len(film) == 3 and len({f.shape for f in film}) == 1 and film[0].shape[0] == 90
    assert film[0].shape == scene_picture(labels[0], height=90, grid=SMALL).shape
    rows = {"model": list(labels), "recorded": [labels[0], None]}
    both = {"model": poses, "recorded": poses}
    for view in ("bev", "voxels"):
        picture = drive_strip(rows, both, title="t", columns=2, view=view, grid=SMALL)
        assert picture.ndim == 3 and picture.dtype == np.uint8
