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
    "world_model.train_geometric",
    "world_model.train_occsora",
    "world_model.train_occworld",
    "world_model.refine_decoder",
    "world_model.evaluate",
    "world_model.fidelity",
    "world_model.verdict",
    "world_model.generate",
    "world_model.visualize",
    "world_model.verify_golden",
    "world_model.import_checkpoint",
    "world_model.calibrate_trust",
    "agents.train",
    "agents.evaluate",
    "agents.benchmark",
    "agents.collect",
    "agents.bench",
    "agents.imitate",
    "ii_world_env.bench",
    "ii_world_env.doctor",
    "ii_world_env.view",
)
WITH_EXAMPLES = (
    "agents.train",
    "agents.evaluate",
    "agents.benchmark",
    "agents.collect",
    "agents.bench",
    "agents.imitate",
    "ii_world_env.bench",
    "ii_world_env.doctor",
    "ii_world_env.view",
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
    # ... and shows what to type; tyro drops a section of a docstring that it knows, such as "Examples:".
    if command in WITH_EXAMPLES:
        assert "Try:" in text and text.count(f"python -m {command} --") >= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_options_are_refused(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = {"visualize": ["some.npz"], "verify_golden": ["folder"], "import_checkpoint": ["x.pth", "--out", "folder"]}
    given = needed.get(command.rpartition(".")[2], [])
    assert run(command, [*given, "--no-such-option", "1"], monkeypatch) not in (0, None)
    said = capsys.readouterr()
    assert "no-such-option" in said.out + said.err
