"""Every command explains itself and refuses what it does not know."""

from __future__ import annotations

import runpy
import sys

import pytest

COMMANDS = (
    "world_model.make_synthetic",
    "world_model.prepare",
    "world_model.train_tokenizer",
    "world_model.encode_tokens",
    "world_model.train_forecaster",
    "world_model.refine_decoder",
    "world_model.evaluate",
    "world_model.generate",
    "world_model.visualize",
    "agents.train",
    "agents.evaluate",
    "ii_world_env.bench",
)


def run(command: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """``python -m command arguments`` inside this process, which has the heavy imports done; returns the exit code."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    monkeypatch.delitem(sys.modules, command, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    return ended.value.code


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, ["--help"], monkeypatch) in (0, None)
    text = capsys.readouterr().out
    assert f"python -m {command}" in text
    # A help text that teaches has more to say than the names of the options.
    assert len(text.split()) > 60


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_options_are_refused(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["some.npz"] if command.endswith("visualize") else []
    assert run(command, [*needed, "--no-such-option", "1"], monkeypatch) not in (0, None)
    said = capsys.readouterr()
    assert "no-such-option" in said.out + said.err
