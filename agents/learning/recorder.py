"""What is written down while a policy learns: model, policy, tables, a picture; and looks at held-out episodes."""

from __future__ import annotations

import csv
import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from agents.learning.learners import OFF_POLICY
from agents.learning.normalise import normaliser_of
from agents.policies import POLICY_FILE, PolicyFacts, save_policy
from agents.resume import snapshot, write
from world_model.core.errors import OutputError
from world_model.core.files import atomic_write, write_text
from world_model.training.report import Look, Reports

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of a backend without a display

MODEL_FILE, CURVE_FILE, PICTURE_FILE, BEST_FILE = "model.zip", "curve.csv", "curve.png", "best.safetensors"
FILES = {"curve": CURVE_FILE, "log": "log.csv", "held_out": "held_out.csv"}
"""Tables: a row for each episode, for each update, and for each look at held-out episodes."""
CURVE_COLUMNS = ("timesteps", "episode_reward", "episode_steps", "progress", "destination", "collision", "off_road")
JUDGED_BY = "pdms"
"""The column of looks that decides which policy is the best so far."""


class Stopped(Exception):
    """Ctrl-C, noticed between two rollouts."""


class Recorder(BaseCallback):
    """Saves the model and the tables now and then, and says how it goes.

    Args:
        out: folder.
        facts: how the policy drives.
        steps: environment steps in all.
        save_every: environment steps between two saved models.
        tables: of the run so far, CSV by name.
        identity: see `snapshot`.
        reports: who else is told.
        look: how good the policy is on held-out episodes.
        look_every: environment steps between two looks; 0: none.
    """

    def __init__(
        self,
        out: Path,
        facts: PolicyFacts,
        steps: int,
        save_every: int,
        tables: dict[str, str],
        identity: dict[str, Any],
        reports: Reports,
        look: Callable[[Any, Any], Look] | None = None,
        look_every: int = 0,
    ) -> None:
        super().__init__()
        self.out, self.facts, self.steps, self.save_every, self.identity = out, facts, steps, save_every, identity
        self.reports, self.look, self.look_every = reports, look, look_every if look is not None else 0
        self.stage, self.begin = 0, reports.begin
        self.replays = facts.learner in OFF_POLICY  # too much to be noted at every rollout
        self.rows = {name: table_rows(tables.get(name, "")) for name in FILES}
        self.columns = {name: table_columns(tables.get(name, "")) for name in FILES}
        self.columns["curve"] = list(CURVE_COLUMNS)
        self.clock, self.saved, self.stop = time.perf_counter(), self.begin, False
        self.kept, self.kept_steps, self.kept_tables = b"", self.begin, dict(tables)

    def _on_step(self) -> bool:
        for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True):
            if done:
                reward = float(str(info["episode"]["r"]))  # as the table has it, from which a resumed run goes on
                self.rows["curve"].append([self.num_timesteps, reward, info["episode"]["l"], *outcome_of(info)])
        return True

    def _on_rollout_start(self) -> None:
        # Between an update and the next rollout: only from there a run can go on to the bit.
        self.between()
        due = self.model.num_timesteps - self.saved >= self.save_every
        if not self.replays or due or self.stop:
            self.keep()
        if due:
            self.save()
        if self.stop:
            raise Stopped

    def _on_rollout_end(self) -> None:
        last = np.array(self.rows["curve"][-100:]).reshape(-1, len(CURVE_COLUMNS))
        mean = last.mean(0) if len(last) else np.full(len(CURVE_COLUMNS), np.nan)
        rate = (self.num_timesteps - self.begin) / (time.perf_counter() - self.clock)
        print(
            f"  {self.num_timesteps}/{self.steps} steps, {rate:.1f}/s; "
            f"last {len(last)} episodes: reward {mean[1]:.2f}, "
            f"progress {mean[3]:.0%}, arrived {mean[4]:.0%}, collision {mean[5]:.0%}, off road {mean[6]:.0%}",
            flush=True,
        )

    def between(self) -> None:
        """A line about the update that has just been made, and a look at held-out episodes where one is due."""
        done = self.model.num_timesteps
        values = {name: float(v) for name, v in self.logger.name_to_value.items() if name.startswith("train/")}
        if values and done > self._last("log"):
            recent = np.array(self.rows["curve"][-100:]).reshape(-1, len(CURVE_COLUMNS))
            mean = recent.mean(0)[1:].tolist() if len(recent) else []
            values |= {f"episodes/{name}": value for name, value in zip(CURVE_COLUMNS[1:], mean)}
            self._note("log", done, values)
            self.reports(done, values)
        if (
            self.look is None
            or not self.look_every
            or done // self.look_every <= self._last("held_out") // self.look_every
        ):
            return
        with undisturbed():
            found = self.look(self.model.policy, normaliser_of(self.model.get_env()))
        best = max((row[self._place("held_out", JUDGED_BY)] for row in self.rows["held_out"]), default=-np.inf)
        self._note("held_out", done, found.values)
        print("  held out: " + ", ".join(f"{name} {value:.3g}" for name, value in found.values.items()), flush=True)
        self.reports(done, {f"held_out/{name}": value for name, value in found.values.items()}, found.pictures)
        if found.values[JUDGED_BY] > best:
            self._save_policy(BEST_FILE)

    def _last(self, table: str) -> float:
        rows = self.rows[table]
        return float(rows[-1][0]) if rows else 0.0

    def _place(self, table: str, column: str) -> int:
        return self.columns[table].index(column)

    def _note(self, table: str, step: int, values: dict[str, float]) -> None:
        columns = self.columns[table] = self.columns[table] or ["timesteps", *values]
        self.rows[table].append([step, *(values.get(name, float("nan")) for name in columns[1:])])

    def keep(self) -> None:
        """Take note of where the run is; only between two rollouts."""
        self.kept_steps = self.model.num_timesteps
        self.kept_tables = {name: table_text(self.columns[name], rows) for name, rows in self.rows.items()}
        normaliser = normaliser_of(self.model.get_env())
        if normaliser is not None:  # kept in the zip, for planners
            named = {name: value.tolist() for name, value in normaliser.tensors().items()}
            self.model.statistics = named  # type: ignore[attr-defined]
        self.kept = snapshot(self.model, self.kept_tables, self.identity, self.stage)

    def back(self) -> None:
        """Take the model back to where the run was last noted: in the middle of a rollout or update it was stopped."""
        stored: Any = io.BytesIO(self.kept)  # a path or a file, which its annotation leaves out
        self.model.set_parameters(stored, device=self.model.device)
        self.model.num_timesteps = self.kept_steps
        self.rows = {name: table_rows(text) for name, text in self.kept_tables.items()}

    def save(self) -> None:
        """Write model, tables and picture as they were when last noted, each whole or not at all.

        Raises:
            OutputError: where that fails; says what is left of the run.
        """
        before = self.saved
        try:
            with atomic_write(self.out / MODEL_FILE) as stream:
                write(stream, self.kept, self.model)
            self.saved = self.kept_steps
            self._save_policy(POLICY_FILE)
            for name, text in self.kept_tables.items():
                if name == "curve" or text.count("\n") > 1:
                    write_text(self.out / FILES[name], text)
            draw(np.array(self.rows["curve"]).reshape(-1, len(CURVE_COLUMNS)), self.out / PICTURE_FILE)
        except OutputError as error:
            model = self.out / MODEL_FILE
            left = f"{model} holds the first {before} steps" if model.exists() else "no model has been saved"
            again = "add --resume to the same command" if model.exists() else "give the same command again"
            raise OutputError(
                f"{error.found}; training stopped at {self.num_timesteps} steps, {left}",
                error.expected,
                f"free space or fix permissions, then {again}",
            ) from error

    def _save_policy(self, name: str) -> None:
        save_policy(self.out / name, self.model.policy, self.facts, normaliser_of(self.model.get_env()))

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Ctrl-C waits for the end of the rollout where there is a replay memory, which nothing takes back; a second
        one does not wait."""
        if not self.replays or threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: object) -> None:
            if self.stop:
                raise KeyboardInterrupt
            self.stop = True

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn inside, training goes on with the random numbers of before."""
    numbers = np.random.get_state()
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = [torch.cuda.current_device()] if used else []
    with torch.random.fork_rng(devices):
        yield
    np.random.set_state(numbers)


def outcome_of(info: dict[str, Any]) -> list[float]:
    """The last four columns of the curve, of an episode that has ended."""
    share = 1.0 if info["goal_m"] < 1e-6 else float(np.clip(info["progress_m"] / info["goal_m"], 0, 1))
    return [share, *(float(info["end"] == cause) for cause in CURVE_COLUMNS[4:])]


def table_text(columns: list[str], rows: list[list[float]]) -> str:
    """CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def table_columns(text: str) -> list[str]:
    """The head of a CSV; empty without one."""
    return next(csv.reader(io.StringIO(text)), [])


def table_rows(text: str) -> list[list[float]]:
    """The numbers of a CSV below its head."""
    rows = list(csv.reader(io.StringIO(text)))[1:]
    return [[int(value) if value.isdecimal() else float(value) for value in row] for row in rows]


def draw(rows: NDArray[Any], path: Path) -> None:
    """Learning curve: means over a sliding window of episodes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    window = max(1, min(50, len(rows) // 4))
    if len(rows):
        smooth = np.stack([np.convolve(column, np.ones(window) / window, "valid") for column in rows.T], 1)
        left.plot(smooth[:, 0], smooth[:, 1], color="#1b6ca8")
        for i, color in ((3, "#1b6ca8"), (4, "#2a9d5c"), (5, "#d1495b"), (6, "#edae49")):
            right.plot(smooth[:, 0], 100 * smooth[:, i], color=color, label=CURVE_COLUMNS[i].replace("_", " "))
        right.legend(frameon=False, fontsize=8)
    left.set(xlabel="environment steps", ylabel="reward per episode", title=f"mean of {window} episodes")
    right.set(xlabel="environment steps", ylabel="%", ylim=(-3, 103))
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
    plt.close(figure)
