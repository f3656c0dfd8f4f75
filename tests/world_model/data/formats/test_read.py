"""Every format, from its files to a drive: prepare, train, encode, forecast, evaluate, gym.make."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from formats.nuscenes import write_infos, write_nuscenes, write_stcocc
from formats.uniocc import write_uniocc
from formats.waymo import write_waymo

import ii_world_env  # noqa: F401
from world_model import encode_tokens, train_forecaster, train_tokenizer
from world_model.core.errors import DataError, OptionError
from world_model.core.grid import CLASS_ID
from world_model.data.formats.read import Format, detect
from world_model.data.index import SceneIndex
from world_model.evaluate import Evaluate, evaluate
from world_model.prepare import Prepare, prepare


@dataclass(frozen=True)
class Case:
    """A format, how to write it, what detection makes of it, and which environment drives in it."""

    write: Callable[[Path], Path]
    detected: Format
    environment: str
    dataset: str
    frames: int


CASES: dict[Format, Case] = {
    "nuscenes": Case(write_nuscenes, "nuscenes", "IIWorld-nuScenes-v0", "nuscenes", 24),
    "infos": Case(write_infos, "infos", "IIWorld-nuScenes-v0", "nuscenes", 24),
    "stcocc": Case(write_stcocc, "nuscenes", "IIWorld-STCOcc-v0", "stcocc", 24),
    "waymo": Case(write_waymo, "waymo", "IIWorld-Waymo-v0", "waymo", 24),
    "uniocc": Case(write_uniocc, "uniocc", "IIWorld-nuScenes-v0", "uniocc", 24),
}


@pytest.mark.parametrize("name", CASES)
def test_from_files_to_a_drive(name: Format, tmp_path: Path) -> None:
    case = CASES[name]
    root = case.write(tmp_path / "data")
    assert detect(root) == case.detected
    index = prepare(
        Prepare(data_root=root, format=name if name == "stcocc" else "auto", strict=True, check_labels=True)
    )
    assert len(index.token) == case.frames and index.dataset == case.dataset
    run = tmp_path / "run"
    train_tokenizer.main(
        train_tokenizer.Args(
            index=root,
            split="all",
            out=run / "tokenizer",
            preset="tiny",
            iterations=2,
            batch=2,
            log_every=1,
            voxels=2000,
        )
    )
    encode_tokens.main(encode_tokens.Args(index=root, tokenizer=run / "tokenizer", out=run / "tokens"))
    train_forecaster.main(
        train_forecaster.Args(
            index=root, split="all", tokens=run / "tokens", tokenizer=run / "tokenizer", out=run / "world",
            preset="tiny", iterations=1, batch=2, log_every=1,
        )
    )  # fmt: skip
    report = evaluate(
        Evaluate(
            index=root, checkpoint=run / "world", out=run / "scores", horizons_s=(1.0,), max_windows=1, device="cpu"
        )
    )
    assert index.source in (run / "scores" / "results.md").read_text()
    assert report.forecasting is not None
    env = gym.make(case.environment, data_root=str(root), checkpoint=str(run / "world"), horizon=2, device="cpu")
    _, info = env.reset(seed=0)
    assert info["data_source"] == index.source
    for _ in range(2):
        _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        assert np.isfinite(reward)
        if terminated:
            break
    assert terminated or truncated
    env.close()


def test_stcocc_is_seen_as_predicted_and_scored_as_it_was(tmp_path: Path) -> None:
    """The tokenizer sees vegetation where the truth has walls; copying what is seen must miss the walls."""
    root = write_stcocc(tmp_path, frames=(2, 12))
    index = prepare(Prepare(data_root=root, format="stcocc"))
    assert index.truth_path is not None and index.source == "synthetic, labels of stc-results"
    seen, true = index.read_labels(3), index.read_truth(3)
    assert (true == CLASS_ID["manmade"]).any() and not (seen == CLASS_ID["manmade"]).any()
    assert ((seen == CLASS_ID["vegetation"]) == (true == CLASS_ID["manmade"])).all()
    loaded = SceneIndex.load(root)
    assert loaded.dataset == "stcocc" and (loaded.read_truth(3) == true).all()
    assert loaded.fingerprint == index.fingerprint

    def voxels(where: Path) -> np.ndarray:
        """(2, 2) true and forecast voxels of walls and vegetation, where the forecast copies what is seen."""
        result = evaluate(
            Evaluate(
                index=where, models="none", out=tmp_path / "scores", horizons_s=(1.0,), max_windows=2, device="cpu"
            )
        ).forecasting
        assert result is not None
        counts = result.confusion("copy-paste", 0).counts
        return np.array([[counts.sum(1 - side)[CLASS_ID[c]] for c in ("manmade", "vegetation")] for side in (0, 1)])

    (true_walls, true_green), (seen_walls, seen_green) = voxels(root)
    assert true_walls > 0 == true_green and seen_green > 0 == seen_walls
    prepare(Prepare(data_root=root, format="nuscenes", out=tmp_path / "plain.npz"))
    (true_walls, true_green), (seen_walls, seen_green) = voxels(tmp_path / "plain.npz")
    assert true_walls > 0 == true_green and seen_walls > 0 == seen_green
    (root / "gts").rename(root / "elsewhere")
    with pytest.raises(DataError, match="no label folder"):
        prepare(Prepare(data_root=root, format="stcocc"))
    prepare(Prepare(data_root=root, format="stcocc", truth_folder="elsewhere"))


def test_stcocc_predicts_only_held_out_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Predictions of the validation split alone, as they are published: training scenes are dropped, and said so."""
    root = write_stcocc(tmp_path, frames=(3, 4), shape=(8, 8, 4))
    for path in (root / "stc-results" / "scene-9001").glob("*/labels.npz"):
        path.unlink()
    index = prepare(Prepare(data_root=root, format="stcocc"))
    printed = capsys.readouterr().out
    assert index.scene_name.tolist() == ["scene-9002"]
    assert "3 of 7 frames without labels left out (train 3)" in printed and "split 'train' is empty" in printed
    with pytest.raises(DataError, match="train"):
        index.scenes("train")


def test_environments_want_their_own_data(tmp_path: Path) -> None:
    root = write_nuscenes(tmp_path / "nuscenes", frames=(2, 8), shape=(8, 8, 4))
    prepare(Prepare(data_root=root))
    for name in ("IIWorld-Waymo-v0", "IIWorld-STCOcc-v0"):
        with pytest.raises(OptionError, match="none are bundled"):
            gym.make(name)
        with pytest.raises(DataError, match="holds the data set 'nuscenes'"):
            gym.make(name, data_root=str(root))
    with pytest.raises(OptionError, match="dataset"):
        gym.make("IIWorld-nuScenes-v0", dataset="moon")


def test_vector_environments_have_the_ids_too(tmp_path: Path) -> None:
    root = write_waymo(tmp_path, frames=(58, 60))
    prepare(Prepare(data_root=root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        envs = gym.make_vec("IIWorld-Waymo-v0", num_envs=2, data_root=str(root), world="replay", horizon=2)
    _, infos = envs.reset(seed=0)
    assert set(infos["data_source"]) == {"waymo"}
    envs.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "waymo", "version": "v1.0-mini"}, "--version"),
        ({"format": "uniocc", "label_folder": "gts"}, "--label-folder"),
        ({"format": "nuscenes", "faithful": True}, "--faithful"),
        ({"format": "nuscenes", "infos": (Path("x_val.pkl"),)}, "--infos"),
        ({"format": "waymo", "truth_folder": "gts"}, "--truth-folder"),
    ],
)
def test_options_that_would_be_ignored_are_refused(tmp_path: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        prepare(Prepare(data_root=tmp_path, **options))  # type: ignore[arg-type]


def test_an_unknown_folder_is_told_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "something").mkdir()
    with pytest.raises(DataError, match=r"something") as caught:
        prepare(Prepare(data_root=tmp_path))
    for part in ("v1.0-trainval", "world-nuscenes_infos_train.pkl", "waymo_infos_val.pkl", "scene_infos.pkl", "gts"):
        assert part in str(caught.value)
