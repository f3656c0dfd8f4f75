"""What is kept of files: their digest; and why a file cannot be read."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from world_model.checkpoints.checkpoint import load_tokenizer
from world_model.core.errors import CheckpointError, DataError
from world_model.core.files import FILES_READ, digest_of_files, remedy_for
from world_model.data.labels import read_labels


def test_digest_tells_files_apart(tmp_path: Path) -> None:
    names = [f"{n}.npz" for n in range(5)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    seen = {digest_of_files(tmp_path, names)}
    assert digest_of_files(tmp_path, ["", *names]) in seen
    for change in (b"x.npz", b"longer than before", None):
        if change is None:
            (tmp_path / names[3]).unlink()
        else:
            (tmp_path / names[3]).write_bytes(change)
        digest = digest_of_files(tmp_path, names)
        assert digest not in seen
        seen.add(digest)
    assert digest_of_files(tmp_path, names[::-1]) not in seen
    assert digest_of_files(tmp_path, []) == digest_of_files(tmp_path / "nowhere", [])


def test_of_many_files_some_are_read_and_all_are_measured(tmp_path: Path) -> None:
    names = [f"{n}.npz" for n in range(3 * FILES_READ)]
    for name in names:
        (tmp_path / name).write_bytes(b"ab")
    before = digest_of_files(tmp_path, names)
    (tmp_path / names[-1]).write_bytes(b"ba")  # the last one is read
    read = digest_of_files(tmp_path, names)
    (tmp_path / names[-2]).write_bytes(b"abc")
    assert len({before, read, digest_of_files(tmp_path, names)}) == 3


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    for name in ("tokenizer.safetensors", "labels.npz"):
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="git lfs pull"):
        read_labels(tmp_path / "labels.npz")


def test_only_damaged_files_are_to_be_written_again() -> None:
    assert remedy_for(ValueError("x"), "write it again") == "write it again"
    assert remedy_for(OSError("not a zip"), "write it again") == "write it again"
    for number in (errno.EMFILE, errno.EACCES):
        assert "intact" in remedy_for(OSError(number, "x"), "write it again")
