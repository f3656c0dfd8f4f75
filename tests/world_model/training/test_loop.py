"""What the loop reports and what it takes up again."""

import errno
import threading
from pathlib import Path

import pytest
import small_training as small
import torch

from world_model.core.errors import CheckpointError, OutputError
from world_model.data.index import SceneIndex
from world_model.training.loop import Trainer


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SceneIndex:
    return small.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(index: SceneIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    small.train_tokenizer(index, out, small.config_of(3, batch=2))
    return out


def stop_after_two(index: SceneIndex, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies in its third step, after having saved the second."""
    step = Trainer.step

    def dying(self: Trainer, batches: object) -> dict[str, torch.Tensor]:
        if self.iteration == 2:
            raise MemoryError
        return step(self, batches)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Trainer, "step", dying)
        small.train_tokenizer(index, out, small.config_of(3, batch=2, save_every=2))


def as_version_0_1(path: Path) -> None:
    """Rewrite a resume file as the first version wrote it."""
    state = torch.load(path, weights_only=True)
    train = state["identity"]["train"]
    del train["group"], train["precision"]
    state["identity"]["train"] = {**train, "amp": True}
    torch.save(state, path)


def test_runs_of_version_0_1_go_on(
    index: SceneIndex, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after_two(index, tmp_path, monkeypatch)
    as_version_0_1(tmp_path / "last.pt")
    small.train_tokenizer(index, tmp_path, small.config_of(3, batch=2))
    first, second = (torch.load(folder / "last.pt", weights_only=True) for folder in (tmp_path, whole))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch": 4}, {"group": 1}, {"precision": "bfloat16"}])
def test_what_changes_a_run_is_refused(index: SceneIndex, whole: Path, change: dict[str, object]) -> None:
    before = (whole / "last.pt").read_bytes()
    with pytest.raises(CheckpointError, match=f"train.{next(iter(change))}"):
        small.train_tokenizer(index, whole, small.config_of(3, **{"batch": 2, **change}))
    assert (whole / "last.pt").read_bytes() == before


def test_a_thread_trains_like_the_main_thread(index: SceneIndex, whole: Path, tmp_path: Path) -> None:
    """Notebooks and servers train in threads, where Python allows no signal handlers."""
    raised: list[BaseException] = []

    def train() -> None:
        try:
            small.train_tokenizer(index, tmp_path, small.config_of(3, batch=2))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not raised
    first, second = (torch.load(folder / "last.pt", weights_only=True)["model"] for folder in (tmp_path, whole))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_how_often_it_is_saved_does_not(index: SceneIndex, whole: Path) -> None:
    trainer = small.train_tokenizer(index, whole, small.config_of(3, batch=2, save_every=7, log_every=2))
    assert trainer.iteration == 3 and len(trainer.rows) == 3


def test_the_log_tells_about_data_and_memory(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = (whole / "log.csv").read_text().split()
    columns = [dict(zip(head.split(","), row.split(","), strict=True)) for row in rows]
    assert all(0 <= float(row["data_wait"]) <= 1 for row in columns)
    assert "peak_gb" not in columns[0]  # memory is counted on GPUs


def test_peak_memory_is_reported_where_there_is_a_gpu(
    index: SceneIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no GPU in tests: the counter alone is replaced."""
    monkeypatch.setattr(Trainer, "peak_gb", property(lambda self: 2.875))
    trainer = small.train_tokenizer(index, tmp_path, small.config_of(1, batch=2))
    out = capsys.readouterr().out
    assert "2.88 GB), " in out and "peak GPU memory of a process: 2.88 GB" in out
    assert trainer.rows[-1]["peak_gb"] == 2.875 and trainer.card()["peak_memory_gb"] == 2.88


def test_a_gradient_that_is_not_finite_leaves_the_weights(
    index: SceneIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = small.train_tokenizer(index, tmp_path, small.config_of(1, batch=2))
    before = {k: v.clone() for k, v in trainer.task.model.state_dict().items()}
    loss = trainer.task.loss

    def broken(*arguments: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        value, logs = loss(*arguments)  # type: ignore[arg-type]
        return value * float("nan"), logs

    monkeypatch.setattr(trainer.task, "loss", broken)
    logs = trainer.step(iter([next(trainer.task.batches(1, 2))]))
    assert logs["skipped"] == 1
    for name, value in trainer.task.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_full_disk_says_what_is_kept(index: SceneIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, written = torch.save, []

    def once(state: object, stream: object) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(1)
        save(state, stream)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="holds iteration 2") as caught:
        patch.setattr(torch, "save", once)
        small.train_tokenizer(index, tmp_path, small.config_of(4, batch=2, save_every=2))
    assert "goes on from iteration 2" in caught.value.remedy
    assert torch.load(tmp_path / "last.pt", weights_only=True)["iteration"] == 2
    assert small.train_tokenizer(index, tmp_path, small.config_of(4, batch=2, save_every=2)).iteration == 4
