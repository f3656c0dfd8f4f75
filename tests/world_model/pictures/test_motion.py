"""Arrows point where things go, differences are coloured by what differs, films become MP4 where they can."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from world_model.core.errors import ConfigError, OutputError
from world_model.core.grid import CLASS_ID, FREE, VoxelGrid
from world_model.pictures import mp4
from world_model.pictures.bev import birds_eye
from world_model.pictures.difference import AGREES, INVENTED, MISSED, OTHER_CLASS, difference_map, difference_picture
from world_model.pictures.vectors import Vectors, box_vectors, ego_vector, outline

GRID = VoxelGrid(shape=(50, 50, 8), lower_m=(-10, -10, -1))
RED = (255, 0, 0)


def empty() -> np.ndarray:
    return np.full(GRID.shape, FREE, np.uint8)


def arrow(start: tuple[float, float], vector: tuple[float, float]) -> Vectors:
    return Vectors(start_m=np.array([start]), vector_m=np.array([vector]), color=RED)


@pytest.mark.parametrize(("vector", "rows", "columns"), [((8, 0), slice(0, 50), None), ((0, 8), None, slice(0, 50))])
def test_arrows_point_up_for_forward_and_left_for_left(
    vector: tuple[float, float], rows: slice | None, columns: slice | None
) -> None:
    picture = birds_eye(empty(), scale=2, grid=GRID, footprint=False, vectors=[arrow((0, 0), vector)])
    red = (picture[..., 0] > 200) & (picture[..., 1] < 60)
    where = np.argwhere(red)
    assert len(where) > 40
    inside = red[rows] if rows is not None else red[:, columns]
    # The butt of the arrow lies on the middle line itself.
    assert inside.sum() > 0.95 * red.sum()


def test_arrows_reach_their_tip_and_short_or_unknown_ones_are_left_out() -> None:
    shape = outline(np.array((1.0, 2.0)), np.array((3.0, 4.0)), 0.5)
    assert np.allclose(shape[3], (4, 6)) and np.allclose((shape[0] + shape[-1]) / 2, (1, 2))
    for vector in ((0.2, 0.1), (np.nan, 1.0)):
        picture = birds_eye(empty(), grid=GRID, vectors=[arrow((0, 0), vector)])
        assert (picture == birds_eye(empty(), grid=GRID)).all()


def test_vectors_are_velocities() -> None:
    class Box:
        center_m = np.array([(1.0, 2.0, 0.5)])
        velocity_mps = np.array([(3.0, -1.0)])

    arrows = box_vectors(Box())  # type: ignore[arg-type]
    assert np.allclose(arrows.start_m, [(1, 2)]) and np.allclose(arrows.vector_m, [(6, -2)])
    assert np.allclose(ego_vector(np.array((2.0, 0.5, 0.1))).vector_m, [(8, 2)])


def test_every_kind_of_difference_has_its_place_and_colour() -> None:
    ours, theirs = empty(), empty()
    car, road = CLASS_ID["car"], CLASS_ID["driveable_surface"]
    ours[0, 0, 3], theirs[0, 0, 1] = car, car  # seen from above the same
    ours[0, 1, 3], theirs[0, 1, 3] = car, road
    theirs[1, 0, 2] = road
    ours[1, 1, 2] = road
    table = difference_map(ours, theirs)
    assert table[:2, :2].tolist() == [[AGREES, OTHER_CLASS], [MISSED, INVENTED]] and table[2:].sum() == 0
    picture = difference_picture(ours, theirs, 2)
    assert picture.shape == (100, 100, 3)
    corner = picture[-4::2, -4::2][::-1, ::-1]  # back to [x, y]
    assert len({tuple(c) for c in corner.reshape(-1, 3).tolist()}) == 4
    with pytest.raises(ConfigError):
        difference_map(ours, theirs[:10])


def fake_ffmpeg(folder: Path, body: str) -> str:
    """A program that gets what ffmpeg would."""
    program = folder / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def film(count: int = 3) -> list[np.ndarray]:
    return [np.full((6, 5, 3), 40 * i, np.uint8) for i in range(count)]


def test_frames_reach_ffmpeg_whole_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake_ffmpeg(
        tmp_path, "open(sys.argv[-1], 'wb').write(' '.join(sys.argv).encode() + sys.stdin.buffer.read())"
    )
    monkeypatch.setattr(mp4, "find_ffmpeg", lambda: program)
    path = mp4.write_film(tmp_path / "a.mp4", film(), fps=8)
    content = path.read_bytes()
    assert path.suffix == ".mp4" and content.endswith(b"".join(f.tobytes() for f in film()))
    assert b"-s 5x6" in content and b"-r 8" in content and b"libx264" in content


def test_another_codec_is_tried_and_failure_leaves_the_earlier_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky = "sys.exit('no x264') if 'libx264' in sys.argv else open(sys.argv[-1], 'wb').write(b'mpeg4')"
    program = fake_ffmpeg(tmp_path, picky)
    monkeypatch.setattr(mp4, "find_ffmpeg", lambda: program)
    path = mp4.write_mp4(tmp_path / "a.mp4", film())
    assert path.read_bytes() == b"mpeg4"
    fake_ffmpeg(tmp_path, "sys.exit('disk of lead')")
    with pytest.raises(OutputError, match="disk of lead"):
        mp4.write_mp4(path, [np.zeros((300, 300, 3), np.uint8)] * 9)
    assert path.read_bytes() == b"mpeg4"


def test_without_ffmpeg_the_film_is_a_gif_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mp4, "find_ffmpeg", lambda: None)
    assert mp4.write_film(tmp_path / "a.mp4", film()) == tmp_path / "a.gif"
    assert "no ffmpeg" in capsys.readouterr().out and (tmp_path / "a.gif").read_bytes()[:3] == b"GIF"
    with pytest.raises(OutputError, match="ffmpeg"):
        mp4.write_mp4(tmp_path / "b.mp4", film())
    with pytest.raises(ConfigError, match=r"\.gif or \.mp4"):
        mp4.write_film(tmp_path / "b.avi", film())
    with pytest.raises(ConfigError):
        mp4.write_mp4(tmp_path / "b.mp4", [])
