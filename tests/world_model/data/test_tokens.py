"""The token cache gives back what was written, and is checked at the door."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_scenes import write_scenes

from world_model.core.errors import DataError
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.prepare import Prepare, prepare

SHAPE = (3, 5, 4)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SceneIndex:
    root = write_scenes(tmp_path_factory.mktemp("data"), frames=(12, 9))
    prepare(Prepare(data_root=root))
    return SceneIndex.load(root)


def tokens(index: SceneIndex, scene: int) -> np.ndarray:
    rng = np.random.default_rng(scene)
    return rng.normal(size=(len(index.frames(scene)), *SHAPE)).astype(np.float32)


@pytest.fixture
def folder(index: SceneIndex, tmp_path: Path) -> Path:
    """A complete cache."""
    cache = TokenCache.create(tmp_path / "tokens", index, "abc", SHAPE)
    for scene in (0, 1):
        cache.write(scene, tokens(index, scene))
    return cache.folder


def test_rows_come_back(index: SceneIndex, folder: Path) -> None:
    cache = TokenCache.load(folder, index, "all", "abc")
    assert cache.done == {0, 1}
    written = np.concatenate([tokens(index, 0), tokens(index, 1)]).astype(np.float16)
    for first, last in ((0, 12), (3, 9), (12, 21), (14, 15)):
        np.testing.assert_array_equal(cache.rows(first, last), written[first:last])
    assert isinstance(cache.rows(3, 9).base, np.memmap)  # nothing is copied into memory


def test_few_files_are_open_at_once(
    index: SceneIndex, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """nuScenes has 850 scenes; macOS allows a process 256 open files."""
    monkeypatch.setattr("world_model.data.tokens.MOST_OPEN", 1)
    cache = TokenCache.load(folder, index, "all", "abc")
    before = cache.rows(0, 3)
    np.testing.assert_array_equal(cache.rows(12, 21), tokens(index, 1).astype(np.float16))
    assert len(cache._maps) == 1
    np.testing.assert_array_equal(before, tokens(index, 0)[:3].astype(np.float16))  # what is in use stays readable


def test_no_intact_file_is_to_be_deleted(index: SceneIndex, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(*args: object, **options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(np, "load", too_many)
    with pytest.raises(DataError, match="Too many open files") as caught:
        TokenCache.load(folder, index, "all", "abc")
    assert "delete" not in caught.value.remedy and "ulimit" in caught.value.remedy


def test_tokens_of_other_labels_are_refused(index: SceneIndex, folder: Path) -> None:
    """The index has the same fingerprint: poses and names are the same."""
    other = replace(index, source=index.source)
    other.__dict__["labels_digest"] = "other"
    assert other.fingerprint == index.fingerprint
    with pytest.raises(DataError, match="other label files"):
        TokenCache.load(folder, other, "all", "abc")
    with pytest.raises(DataError, match="holds tokens of"):
        TokenCache.create(folder, other, "abc", SHAPE)


def test_a_cache_without_the_digest_of_its_labels(
    index: SceneIndex, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of earlier versions: read with a note, encoded anew."""
    meta = json.loads((folder / "meta.json").read_text())
    del meta["labels"]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert TokenCache.load(folder, index, "all", "abc").done == {0, 1}
    assert "from which label files" in capsys.readouterr().out
    assert TokenCache.create(folder, index, "abc", SHAPE).done == set()
    assert "encoding anew" in capsys.readouterr().out
    assert TokenCache.create(folder, index, "abc", SHAPE).meta["labels"] == index.labels_digest


def test_two_writers_share_a_cache(index: SceneIndex, tmp_path: Path) -> None:
    """Each process opens the cache by itself; what is there counts, whoever wrote it."""
    writers = [TokenCache.create(tmp_path, index, "abc", SHAPE) for _ in range(2)]
    writers[1].write(1, tokens(index, 1))
    assert writers[0].done == {1}
    with pytest.raises(DataError, match="lacks 1 scenes"):
        TokenCache.load(tmp_path, index, "all")
    writers[0].write(0, tokens(index, 0))
    assert TokenCache.load(tmp_path, index, "all").done == {0, 1}


def test_what_is_refused(index: SceneIndex, folder: Path) -> None:
    with pytest.raises(DataError, match="made by tokenizer abc"):
        TokenCache.load(folder, index, "all", "xyz")
    with pytest.raises(DataError, match="holds tokens of"):
        TokenCache.create(folder, index, "xyz", SHAPE)
    cache = TokenCache.load(folder, index, "all")
    with pytest.raises(DataError, match="tokens of scene 0"):
        cache.write(0, tokens(index, 1))
    for bad in (np.nan, np.inf, 1e5):
        broken = tokens(index, 0)
        broken[2, 1] = bad
        with pytest.raises(DataError, match="diverged"):
            cache.write(0, broken)
    np.testing.assert_array_equal(cache.rows(0, 12), tokens(index, 0).astype(np.float16))


def test_damaged_files_are_named(index: SceneIndex, folder: Path) -> None:
    path = folder / "scenes" / "000001.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"000001\.npy cannot be read"):
        TokenCache.load(folder, index, "all")
    TokenCache.load(folder, index, "train")  # the other scene is whole
    np.save(path, np.zeros((9, *SHAPE), np.float64))
    with pytest.raises(DataError, match=r"000001\.npy is float64"):
        TokenCache.load(folder, index, "all")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"000001\.npy"):
        TokenCache.load(folder, index, "all")
    for meta in ("nonsense", "[]", '{"shape": [21, 3, -5, 4]}'):
        (folder / "meta.json").write_text(meta)
        with pytest.raises(DataError):
            TokenCache.load(folder, index, "all")


def test_caches_of_version_0_1_are_read(index: SceneIndex, tmp_path: Path) -> None:
    """One file for all scenes, and a list of those that are complete."""
    written = np.concatenate([tokens(index, 0), tokens(index, 1)]).astype(np.float16)
    np.save(tmp_path / "tokens.npy", written)
    (tmp_path / "done.json").write_text("[0]")
    meta = {"data": index.fingerprint, "tokenizer": "abc", "shape": [21, *SHAPE]}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    cache = TokenCache.load(tmp_path, index, "train", "abc")
    np.testing.assert_array_equal(cache.rows(4, 9), written[4:9])
    with pytest.raises(DataError, match="lacks 1 scenes"):
        TokenCache.load(tmp_path, index, "all", "abc")
    with pytest.raises(DataError, match=r"version 0\.1"):
        cache.write(1, tokens(index, 1))
