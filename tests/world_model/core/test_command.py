"""What every command does with its arguments, and how it ends when it cannot go on."""

from __future__ import annotations

import ast
import errno
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_scenes import write_scenes

from world_model.core.command import INTERRUPTED, expanded, run
from world_model.core.errors import DataError, OutputError
from world_model.core.files import atomic_write, check_writable
from world_model.data.formats.nuscenes import read_nuscenes

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a command."""

    out: Path = Path("x")
    """A folder."""


def ended(raised: BaseException, monkeypatch: pytest.MonkeyPatch) -> object:
    def work(options: Options) -> None:
        raise raised

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as caught:
        run(Options, work, "command", resumes="begin again")
    return caught.value.code


def test_the_home_folder_is_found_in_every_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    found = expanded(["--out", "~/a b", "--index=~/i", "~", "--note=x~y", "a~/b", "--steps", "3"])
    assert found == [
        "--out",
        f"{tmp_path}/a b",
        f"--index={tmp_path}/i",
        f"{tmp_path}",
        "--note=x~y",
        "a~/b",
        "--steps",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", ["command", "--out=~/x"])
    assert run(Options, lambda options: options.out, "command") == tmp_path / "x"


def test_every_command_begins_here() -> None:
    """No command reads its options in a way of its own."""
    others = [
        str(path.relative_to(ROOT))
        for package in ("world_model", "ii_world_env", "agents")
        for path in (ROOT / package).rglob("*.py")
        if "tyro.cli(" in path.read_text(encoding="utf-8") and path.name != "command.py"
    ]
    assert not others


def test_it_ends_with_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(ended(DataError("no file", "one", "make it"), monkeypatch)).startswith("error: no file")
    assert ended(KeyboardInterrupt(), monkeypatch) == INTERRUPTED
    assert capsys.readouterr().err == "\ninterrupted: begin again\n"
    full = str(ended(OSError(errno.ENOSPC, "No space left on device", "/x"), monkeypatch))
    assert full.startswith("error: No space left on device (/x)") and "begin again" in full


def test_characters_that_the_terminal_lacks_do_not_end_a_command(tmp_path: Path) -> None:
    program = (
        "from tests.world_model.core.test_command import Options\n"
        "from world_model.core.command import run\n"
        "run(Options, lambda options: print('90\u00b0 \u2265 1'), 'command')\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    script = tmp_path / "script.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, check=True)
    assert done.stdout.strip() == b"90? ? 1"


def test_text_files_name_their_encoding() -> None:
    """What the system takes for text by default is not UTF-8 everywhere; tables may begin with a byte order mark."""
    nameless = []
    for package in ("world_model", "ii_world_env", "agents", "examples"):
        for path in (ROOT / package).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and _text_without_encoding(call):
                    nameless.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert not nameless


def _text_without_encoding(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {keyword.arg for keyword in call.keywords}
    if name == "read_text" or (name == "write_text" and isinstance(call.func, ast.Attribute)):
        return "encoding" not in given
    if name != "open" or (isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in OPENERS):
        return False
    modes = [a.value for a in (*call.args, *(k.value for k in call.keywords)) if isinstance(a, ast.Constant)]
    return "encoding" not in given and not any(isinstance(m, str) and "b" in m for m in modes)


OPENERS = ("archive", "zipfile", "Image")


def test_folders_that_take_nothing_are_found_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "not" / "there")
    assert not list(tmp_path.iterdir())  # nothing is made, nothing stays
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="could not write") as caught:
        check_writable(tmp_path / "file" / "folder")
    assert caught.value.remedy


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
def test_a_full_disk_is_an_output_error_whatever_the_writer_makes_of_it(tmp_path: Path) -> None:
    """In a process of its own, whose files may have 100 kB."""
    program = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from world_model.core.errors import OutputError\n"
        "from world_model.core.files import atomic_write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    with atomic_write(Path(sys.argv[1])) as stream:\n"
        "        torch.save({'x': torch.zeros(1_000_000)}, stream)\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", program, str(tmp_path / "last.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "could not write" in done.stdout and not list(tmp_path.iterdir())


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_write(tmp_path / "x"):
        raise KeyError("x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "fidelity", "generate"])
def test_commands_refuse_a_folder_that_takes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [command, "--out", str(tmp_path / "file" / "out")])
    with pytest.raises(SystemExit, match="could not write"):
        importlib.import_module(f"world_model.{command}").main()


def test_tables_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data", frames=(3,), shape=(8, 8, 4))
    before = read_nuscenes(root).to_index()[0].fingerprint
    for path in [*root.glob("v1.0-mini/*.json"), *root.glob("*.json")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_nuscenes(root).to_index()[0].fingerprint == before
