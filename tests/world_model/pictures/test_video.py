"""Films are whole or not there, and an MP4 without its extra is a GIF that says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from world_model.core.errors import ConfigError, OutputError
from world_model.pictures import video


def film(count: int = 3) -> list[np.ndarray]:
    return [np.full((34, 65, 3), 40 * i, np.uint8) for i in range(count)]


def test_an_mp4_shows_every_frame_at_its_size_and_pace(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    path = video.write_film(tmp_path / "a.mp4", film(), fps=8)
    assert path == tmp_path / "a.mp4" and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    frames = imageio.mimread(path)
    with imageio.get_reader(path) as reader:
        assert reader.get_meta_data()["fps"] == 8
    assert len(frames) == 3 and frames[0].shape == (34, 66, 3)
    for i, frame in enumerate(frames):
        assert np.abs(frame[:, :60].astype(int) - 40 * i).max() < 8


def test_an_mp4_that_cannot_be_written_leaves_the_earlier_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "a.mp4"
    path.write_bytes(b"earlier")

    def fail(*args: object, **options: object) -> None:
        raise OSError("disk of lead")

    monkeypatch.setattr(imageio, "mimwrite", fail)
    with pytest.raises(OutputError, match="disk of lead"):
        video.write_mp4(path, film())
    assert path.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 1


def test_without_the_extra_the_film_is_a_gif_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(video, "can_write_mp4", lambda: False)
    assert video.write_film(tmp_path / "a.mp4", film()) == tmp_path / "a.gif"
    assert "iiworld[video]" in capsys.readouterr().out and (tmp_path / "a.gif").read_bytes()[:3] == b"GIF"
    with pytest.raises(OutputError, match=r"iiworld\[video\]"):
        video.write_mp4(tmp_path / "b.mp4", film())


def test_what_is_no_film_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.gif or \.mp4"):
        video.write_film(tmp_path / "b.avi", film())
    for bad in ([], [*film(), np.zeros((3, 3, 3), np.uint8)], [np.zeros((4, 4), np.uint8)], [np.zeros((4, 4, 3))]):
        for write in (video.write_gif, video.write_mp4):
            with pytest.raises(ConfigError):
                write(tmp_path / "b.gif", bad)
    assert not list(tmp_path.iterdir())
