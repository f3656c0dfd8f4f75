"""Training a planner in a world with PPO: environments, policy, saved models and curves, and going on with them."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from agents.episodes import fixed_starts
from agents.policies import POLICY_FILE, PolicyFacts, policy_keywords, save_policy
from agents.prior_env import PriorVecEnv
from agents.resume import go_on, snapshot
from ii_world_env.faces.options import DriveOptions
from ii_world_env.observations.extractor import ClassMapExtractor, StandardExtractor
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from world_model.core.errors import CheckpointError, OptionError, OutputError
from world_model.core.files import atomic_write, check_writable, write_json, write_text
from world_model.worlds import resolve_world

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of a backend without a display

MODEL_FILE, CURVE_FILE, PICTURE_FILE, CONFIG_FILE = "model.zip", "curve.csv", "curve.png", "config.json"
RESUMES = "the model saved last is in --out; the same command with --resume goes on"
LATER = ("finite_horizon", "standard")
"""Options that runs of before do not name."""
CURVE_COLUMNS = ("timesteps", "episode_reward", "episode_steps", "progress", "destination", "collision", "off_road")


@dataclass(frozen=True, kw_only=True)
class Train(DriveOptions):
    """Train a driving policy with PPO inside a world; stop it whenever you like and go on with --resume.

    Try:
      python -m agents.train --timesteps 20000
      python -m agents.train --world transport --timesteps 50000 --out outputs/ppo_transport
      python -m agents.train --timesteps 100000 --resume
      python -m agents.train --prior idm --reward pdms --observation state --out outputs/residual
      python -m agents.evaluate --planners idm ppo:outputs/ppo/model.zip
    """

    timesteps: int = 20_000
    """Environment steps in all, those before a --resume included."""
    num_envs: int = 4
    """Environments side by side, as one batch: one forward of the world model serves them all."""
    kept_mib: float = 512.0
    """Memory for start states that come again, MiB; 0 makes each of them anew, to the same numbers."""
    split: str | None = None
    """Which scenes to train in: train, val or all. If not given: train, or all of the bundled demo scenes."""
    starts_per_scene: int | None = None
    """Begin only at so many evenly spread frames of each scene, so that kept starts come again soon; None: at all."""
    observation: str = "bev"
    """bev, occupancy, state, traffic, traffic_timed, tokens (only in the world ii-world), or package.module:Class."""
    rollout: int = 128
    """Steps of every environment between two updates."""
    minibatch: int = 128
    """Steps in one gradient step."""
    epochs: int = 4
    """Passes over the collected steps at each update."""
    learning_rate: float = 3e-4
    """Of Adam."""
    prior: str | None = None
    """Scripted planner whose actions the policy corrects within bounds, e.g. idm; None: it acts alone."""
    comfort: bool = False
    """With a prior: let the comfort limiter have the last word."""
    pessimism: float = 0.0
    """What a step without any forecast trust costs; only in worlds that have a trust."""
    finite_horizon: bool = False
    """Nothing lies beyond the horizon; with observation traffic_timed."""
    standard: bool = False
    """Standardise vector observations by those of a first drive without corrections."""
    layers: tuple[int, ...] = (64,)
    """Widths of the hidden layers behind the features."""
    gamma: float = 0.97
    """Discount per step of 0.5 s."""
    seed: int = 0
    """Of policy, scenes and action noise; of a resumed run together with the steps done before it."""
    save_every: int = 5_000
    """Environment steps between two saved models."""
    out: Path = Path("outputs/ppo")
    """Folder for model.zip, curve.csv, curve.png and config.json."""
    resume: bool = False
    """Go on from the model in --out."""

    def __post_init__(self) -> None:
        self.check_counts(
            "timesteps", "num_envs", "horizon", "starts_per_scene", "rollout", "minibatch", "epochs", "save_every"
        )
        if self.comfort and self.prior is None:
            raise OptionError("--comfort without --prior", "a prior, such as idm", "add --prior idm")

    def facts(self) -> PolicyFacts:
        """How the policy drives."""
        return PolicyFacts(
            action=self.action,
            observation=self.observation,
            prior=self.prior,
            comfort=self.comfort,
            layers=self.layers,
            grouped=True,
            standard=self.standard,
        )


class Recorder(BaseCallback):
    """Saves the model and the learning curve now and then, and says how it goes.

    Args:
        options: the command.
        rows: of the curve so far.
        begin: steps done before this run.
        identity: see `snapshot`.
    """

    def __init__(self, options: Train, rows: list[list[float]], begin: int, identity: dict[str, Any]) -> None:
        super().__init__()
        self.options, self.rows, self.begin, self.identity = options, rows, begin, identity
        self.clock, self.saved = time.perf_counter(), begin
        self.kept, self.kept_steps, self.kept_curve = b"", begin, ""

    def _on_step(self) -> bool:
        for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True):
            if done:
                self.rows.append([self.num_timesteps, info["episode"]["r"], info["episode"]["l"], *_outcome(info)])
        return True

    def _on_rollout_start(self) -> None:
        # Between an update and the next rollout: only from there a run can go on to the bit.
        self.keep()
        if self.kept_steps - self.saved >= self.options.save_every:
            _save(self)

    def _on_rollout_end(self) -> None:
        last = np.array(self.rows[-100:]).reshape(-1, len(CURVE_COLUMNS))
        mean = last.mean(0) if len(last) else np.full(len(CURVE_COLUMNS), np.nan)
        rate = (self.num_timesteps - self.begin) / (time.perf_counter() - self.clock)
        print(
            f"  {self.num_timesteps}/{self.options.timesteps} steps, {rate:.1f}/s; "
            f"last {len(last)} episodes: reward {mean[1]:.2f}, "
            f"progress {mean[3]:.0%}, arrived {mean[4]:.0%}, collision {mean[5]:.0%}, off road {mean[6]:.0%}",
            flush=True,
        )

    def keep(self) -> None:
        """Take note of where the run is; only between two rollouts."""
        self.kept_steps, self.kept_curve = self.model.num_timesteps, _curve_text(self.rows)
        self.kept = snapshot(self.model, self.kept_curve, self.identity)  # type: ignore[arg-type]  # PPO's

    def back(self) -> None:
        """Take the model back to where the run was last noted: in the middle of a rollout or update it was stopped."""
        stored: Any = io.BytesIO(self.kept)  # a path or a file, which its annotation leaves out
        self.model.set_parameters(stored, device=self.model.device)
        self.model.num_timesteps, self.rows = self.kept_steps, _curve_rows(self.kept_curve)

    def save(self) -> None:
        """Write model, curve and picture as they were when last noted, each whole or not at all."""
        out = self.options.out
        with atomic_write(out / MODEL_FILE) as stream:
            stream.write(self.kept)
        self.saved = self.kept_steps
        policy: Any = self.model.policy
        # A run that began with an earlier version goes on with its extractor.
        grouped = type(policy.features_extractor) is not ClassMapExtractor
        save_policy(out / POLICY_FILE, policy, replace(self.options.facts(), grouped=grouped))
        write_text(out / CURVE_FILE, self.kept_curve)
        _draw(np.array(self.rows).reshape(-1, len(CURVE_COLUMNS)), out / PICTURE_FILE)


def train(options: Train) -> PPO:
    """Train, saving on the way.

    Returns:
        The model, which also lies in ``options.out``.

    Raises:
        CheckpointError: nothing to resume, or a model of other options.
        OptionError: the folder already holds a model and ``resume`` is off.
    """
    # Reads first, writes later: an option that cannot work leaves the folder as it was.
    rows = _earlier_curve(options)
    check_writable(options.out)
    venv = _make(options)
    venv.seed(options.seed)
    device = "cpu" if options.device == "auto" else options.device
    if options.resume:
        model, rows = _load(options, venv, device, rows)
    else:
        model = PPO(
            "MultiInputPolicy" if isinstance(venv.observation_space, spaces.Dict) else "MlpPolicy",
            venv,
            n_steps=options.rollout,
            batch_size=min(options.minibatch, options.rollout * options.num_envs),
            n_epochs=options.epochs,
            learning_rate=options.learning_rate,
            gamma=options.gamma,
            ent_coef=0.003,
            policy_kwargs=policy_keywords(options.facts(), venv.observation_space),
            seed=options.seed,
            device=device,
        )
        _standardise(model, options, venv)
        model.facts = asdict(options.facts())  # type: ignore[attr-defined]  # kept in the zip
        write_json(options.out / CONFIG_FILE, _plain(options))
    weights = sum(p.numel() for p in model.policy.parameters())
    answers = resolve_world(options.world, options.checkpoint)
    print(f"PPO, {weights / 1e6:.2f} M parameters, {options.num_envs} environments, world {answers}")
    print(f"  {_source(venv)}")
    recorder = Recorder(options, rows, model.num_timesteps, _identity(options, venv))
    left = options.timesteps - model.num_timesteps
    if left <= 0:
        print(f"  already at {model.num_timesteps} steps; ask for more with --timesteps")
        return model
    try:
        model.learn(left, callback=recorder, reset_num_timesteps=False)
        recorder.keep()
    except KeyboardInterrupt:
        if not recorder.kept:
            raise
        recorder.back()
        print(f"  interrupted; the model after {recorder.kept_steps} steps is saved, --resume goes on")
    _save(recorder)
    venv.close()
    print(f"wrote {MODEL_FILE}, {POLICY_FILE}, {CURVE_FILE}, {PICTURE_FILE} and {CONFIG_FILE} in {options.out}")
    return model


def _standardise(model: PPO, options: Train, venv: VecEnv) -> None:
    """Fit the extractor to the observations of one rollout of zeros: of the prior alone, where there is one."""
    extractor = model.policy.features_extractor
    if not isinstance(extractor, StandardExtractor):
        return
    zero = np.zeros((venv.num_envs, *(venv.action_space.shape or ())), np.float32)
    seen = [np.asarray(venv.reset())]
    for _ in range(options.rollout):
        seen.append(np.asarray(venv.step(zero)[0]))
    extractor.fit(torch.as_tensor(np.concatenate(seen), device=model.device))
    venv.seed(options.seed)


def _save(recorder: Recorder) -> None:
    """Save; where that fails, say what is left of the run."""
    kept = recorder.saved
    try:
        recorder.save()
    except OutputError as error:
        model = recorder.options.out / MODEL_FILE
        left = f"{model} holds the first {kept} steps" if model.exists() else "no model has been saved"
        again = "add --resume to the same command" if model.exists() else "give the same command again"
        raise OutputError(
            f"{error.found}; training stopped at {recorder.num_timesteps} steps, {left}",
            error.expected,
            f"free space or fix permissions, then {again}",
        ) from error


def _make(options: Train) -> VecEnv:
    """All environments as one batch: one model forward for a step of all of them."""
    split = options.split or ("all" if options.index is None else "train")
    chosen = {name: getattr(options, name) for name in ("observation", "kept_mib", "pessimism", "finite_horizon")}
    venv = IIWorldVecEnv(options.num_envs, split=split, **chosen, **options.keywords())
    if options.starts_per_scene is not None:
        scenes = venv.vector.scenes
        scenes.starts = [start.frame for start in fixed_starts(scenes, options.starts_per_scene)]
    return VecMonitor(venv if options.prior is None else PriorVecEnv(venv, options.prior, options.comfort))


def _outcome(info: dict[str, Any]) -> list[float]:
    share = 1.0 if info["goal_m"] < 1e-6 else float(np.clip(info["progress_m"] / info["goal_m"], 0, 1))
    return [share, *(float(info["end"] == cause) for cause in CURVE_COLUMNS[4:])]


def _plain(options: Train) -> dict[str, Any]:
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items()}
    return {**values, "torch": torch.__version__}


def _source(venv: VecEnv) -> str:
    (scenes,) = venv.get_attr("scenes", indices=0)
    return f"data: {scenes.source}, {len(scenes.numbers)} scenes"


def _earlier_curve(options: Train) -> list[list[float]]:
    model, curve = options.out / MODEL_FILE, options.out / CURVE_FILE
    if not options.resume:
        if model.exists():
            raise OptionError(f"{model} exists", "an empty folder or --resume", "add --resume, or choose another --out")
        return []
    if not model.exists():
        raise CheckpointError(
            f"nothing to resume: no {model}", "a model that this command saved", "start without --resume"
        )
    if not curve.exists():
        return []
    return _curve_rows(curve.read_text(encoding="utf-8"))


def _curve_text(rows: list[list[float]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([CURVE_COLUMNS, *rows])
    return text.getvalue()


def _curve_rows(text: str) -> list[list[float]]:
    rows = list(csv.reader(io.StringIO(text)))[1:]
    return [[int(value) if value.isdecimal() else float(value) for value in row] for row in rows]


def _load(options: Train, venv: VecEnv, device: str, rows: list[list[float]]) -> tuple[PPO, list[list[float]]]:
    """The model, put where the run was, and the learning curve until there."""
    path, remedy = options.out / MODEL_FILE, "use the same options as before, or start anew in another --out"
    try:
        before = json.loads((options.out / CONFIG_FILE).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{options.out / CONFIG_FILE} cannot be read ({error})", "the options of the run", remedy
        ) from error
    fixed = ("action", "observation", "num_envs", "rollout", "horizon", "prior", "comfort", "layers", "standard")
    now = json.loads(json.dumps(_plain(options)))
    # Runs of before these options.
    before = {"prior": None, "comfort": False, "layers": [64], **dict.fromkeys(LATER, False), **before}
    if changed := [f"{name}={now[name]} (was {before.get(name)})" for name in fixed if now[name] != before.get(name)]:
        raise CheckpointError(f"resume with {', '.join(changed)}", "the options that the run began with", remedy)
    try:
        model = PPO.load(path, env=venv, device=device, force_reset=False)
        kept = go_on(model, path, _identity(options, venv))
    except Exception as error:  # SB3 lets every kind of pickle, zip and torch error through
        raise CheckpointError(f"{path} cannot be read ({error})", "a model zip of stable-baselines3", remedy) from error
    if kept is not None:
        return model, _curve_rows(kept)
    print("  other data, world or options than before, or a model of an earlier version: new episodes begin")
    # Loading has seeded policy and environments as at the very beginning: the same starts and noise would come again.
    model.set_random_seed(resumed_seed(options.seed, model.num_timesteps))
    model._last_obs = None  # reset before the next rollout
    return model, rows


def _identity(options: Train, venv: VecEnv) -> dict[str, Any]:
    """What must be the same for a run to go on in the episodes that it was in."""
    free = ("timesteps", "save_every", "out", "resume", "torch", "device", "index")
    values = {name: value for name, value in json.loads(json.dumps(_plain(options))).items() if name not in free}
    values = {name: value for name, value in values.items() if value or name not in LATER}
    (scenes,) = venv.get_attr("scenes", indices=0)
    return {**values, "data": scenes.index.fingerprint}


def resumed_seed(seed: int, done: int) -> int:
    """The seed of a run that goes on after ``done`` environment steps: other starts, the same for the same pair."""
    return int(np.random.SeedSequence((seed, done)).generate_state(1)[0] >> 1)


def _draw(rows: NDArray[Any], path: Path) -> None:
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
