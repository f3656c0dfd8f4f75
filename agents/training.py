"""Training a planner in a world, or in several one after the other: environments, learner, and going on with a run."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from agents.episodes import fixed_starts
from agents.learning.held_out import held_out_episodes
from agents.learning.learners import OFF_POLICY, learner_class, policy_class
from agents.learning.normalise import memory_of, recall, wrapped, wrapper_of
from agents.learning.options import Train
from agents.learning.recorder import CURVE_COLUMNS, CURVE_FILE, FILES, MODEL_FILE, PICTURE_FILE, Recorder, Stopped
from agents.policies import POLICY_FILE, policy_keywords
from agents.prior_env import PriorVecEnv
from agents.resume import described, go_on
from ii_world_env.observations.extractor import ClassMapExtractor, StandardExtractor
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from world_model.core.errors import CheckpointError, OptionError
from world_model.core.files import check_writable, write_json
from world_model.training.report import Reports
from world_model.training.report_options import ReportOptions
from world_model.worlds import resolve_world

__all__ = ["CURVE_COLUMNS", "RESUMES", "Train", "resumed_seed", "train"]
CONFIG_FILE = "config.json"
RESUMES = "the model saved last is in --out; the same command with --resume goes on"
LARGEST_REPLAY_GIB = 16
FIXED = ("action", "observation", "num_envs", "rollout", "horizon")
YOUNGER = ("prior", "comfort", "layers", "standard", "learner", "worlds", "stage", "normalise", "buffer", "warmup")
"""What a run cannot change when it goes on; the younger ones were added after the first version."""
FREE = ("timesteps", "save_every", "out", "resume", "torch", "device", "index", "worlds", "stage")
"""What says nothing about the episodes that it was in."""


def train(options: Train) -> Any:
    """Train, saving on the way.

    Returns:
        The model of stable-baselines3, which also lies in ``options.out``.

    Raises:
        CheckpointError: nothing to resume, or a model of other options.
        OptionError: the folder already holds a model and ``resume`` is off; an extra is missing; options do not fit.
    """
    # Reads first, writes later: an option that cannot work leaves the folder as it was.
    options, tables = _earlier(options)
    kind = learner_class(options.learner)
    check_writable(options.out)
    done = _steps_of(options) if options.resume else 0
    stage = sum(done >= end for _, end in options.stages[:-1])
    venv = _make(options, stage)
    reports = options.reports(options.out, _plain(options), done)
    if options.resume:
        model, tables = _load(options, kind, venv, stage, tables)
    else:
        model = _new(options, kind, venv)
        _standardise(model, options, venv)
        write_json(options.out / CONFIG_FILE, _plain(options))
    weights = sum(p.numel() for p in model.policy.parameters())
    answers = " then ".join(resolve_world(world, options.checkpoint) for world, _ in options.stages)
    name = {"ppo": "PPO"}.get(options.learner, options.learner)
    print(f"{name}, {weights / 1e6:.2f} M parameters, {options.num_envs} environments, world {answers}")
    print(f"  {_source(venv)}")
    if options.timesteps <= model.num_timesteps:
        print(f"  already at {model.num_timesteps} steps; ask for more with --timesteps")
        return model
    recorder = _recorder(options, model, venv, tables, reports)
    recorder.stage = stage
    try:
        with recorder.stoppable():
            _learn(options, model, venv, recorder)
    except Stopped:
        print(f"  interrupted; the model after {recorder.kept_steps} steps is saved, --resume goes on")
    except KeyboardInterrupt:
        if not recorder.kept or recorder.replays:
            raise
        recorder.back()
        print(f"  interrupted; the model after {recorder.kept_steps} steps is saved, --resume goes on")
    recorder.save()
    reports(model.num_timesteps, last=True)
    env = model.get_env()
    assert env is not None
    env.close()
    print(f"wrote {MODEL_FILE}, {POLICY_FILE}, {CURVE_FILE}, {PICTURE_FILE} and {CONFIG_FILE} in {options.out}")
    return model


def _learn(options: Train, model: BaseAlgorithm, venv: VecEnv, recorder: Recorder) -> None:
    """All stages that are left, the first of them in ``venv``."""
    for stage in range(recorder.stage, len(options.stages)):
        if stage > recorder.stage:
            print(f"  world {options.stages[stage][0]} from step {model.num_timesteps} on", flush=True)
            memory, before = wrapper_of(venv), venv
            venv, recorder.stage = _make(options, stage), stage
            after = wrapper_of(venv)
            if memory is not None and after is not None:
                recall(after, memory_of(memory), running=False)
            model.set_env(venv, force_reset=True)
            before.close()
        left = options.stages[stage][1] - model.num_timesteps
        if left > 0:
            model.learn(left, callback=recorder, reset_num_timesteps=False)
            recorder.between()
            recorder.keep()


def _new(options: Train, kind: Any, venv: VecEnv) -> BaseAlgorithm:
    keywords: dict[str, Any] = {
        "learning_rate": options.learning_rate,
        "gamma": options.gamma,
        "policy_kwargs": policy_keywords(options.facts(), venv.observation_space),
        "seed": options.seed,
        "device": _device(options),
    }
    if options.learner in OFF_POLICY:
        keywords |= {
            "buffer_size": _checked_buffer(options, venv),
            "learning_starts": options.warmup,
            "batch_size": options.minibatch,
            "train_freq": options.steps_between,
            "gradient_steps": -1,
        }
    else:
        keywords |= {
            "n_steps": options.steps_between,
            "batch_size": min(options.minibatch, options.steps_between * options.num_envs),
            "n_epochs": options.epochs,
            "ent_coef": 0.003,
        }
    model: BaseAlgorithm = kind(policy_class(options.learner, venv.observation_space), venv, **keywords)
    model.facts = asdict(options.facts())  # type: ignore[attr-defined]  # kept in the zip
    return model


def _standardise(model: BaseAlgorithm, options: Train, venv: VecEnv) -> None:
    """Fit the extractors to the observations of one rollout of zeros: of the prior alone, where there is one."""
    extractors = [module for module in model.policy.modules() if isinstance(module, StandardExtractor)]
    if not extractors:
        return
    zero = np.zeros((venv.num_envs, *(venv.action_space.shape or ())), np.float32)
    seen = [np.asarray(venv.reset())]
    for _ in range(options.steps_between):
        seen.append(np.asarray(venv.step(zero)[0]))
    for extractor in extractors:
        extractor.fit(torch.as_tensor(np.concatenate(seen), device=model.device))
    venv.seed(options.seed)


def _checked_buffer(options: Train, venv: VecEnv) -> int:
    """The size of the replay memory.

    Raises:
        OptionError: it would take too much memory.
    """
    space = venv.observation_space
    boxes = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    gib = 2 * options.buffer * sum(box.sample().nbytes for box in boxes) / 2**30
    if gib > LARGEST_REPLAY_GIB:
        raise OptionError(
            f"--buffer {options.buffer} with --observation {options.observation}: {gib:.0f} GiB",
            f"at most {LARGEST_REPLAY_GIB} GiB",
            "give a smaller --buffer, or observe state or traffic",
        )
    return options.buffer


def _recorder(options: Train, model: BaseAlgorithm, venv: VecEnv, tables: dict[str, str], reports: Reports) -> Recorder:
    # A run that began with an earlier version goes on with its extractor.
    grouped = type(getattr(model.policy, "features_extractor", None)) is not ClassMapExtractor
    facts = replace(options.facts(), grouped=grouped)
    # In the last world of a curriculum: looks stay comparable.
    look = held_out_episodes(options, options, options.stages[-1][0], facts)
    return Recorder(
        options.out,
        facts,
        options.timesteps,
        options.save_every,
        tables,
        _identity(options, venv),
        reports,
        look,
        options.held_out_every,
    )


def _make(options: Train, stage: int = 0) -> VecEnv:
    """All environments as one batch: one model forward for a step of all of them."""
    split = options.split or ("all" if options.index is None else "train")
    chosen = {name: getattr(options, name) for name in ("observation", "kept_mib", "pessimism", "finite_horizon")}
    venv = IIWorldVecEnv(
        options.num_envs, split=split, **chosen, **{**options.keywords(), "world": options.stages[stage][0]}
    )
    if options.starts_per_scene is not None:
        scenes = venv.vector.scenes
        scenes.starts = [start.frame for start in fixed_starts(scenes, options.starts_per_scene)]
    monitored = VecMonitor(venv if options.prior is None else PriorVecEnv(venv, options.prior, options.comfort))
    made = wrapped(monitored, options.normalise, options.gamma)
    made.seed(_stage_seed(options, stage))
    return made


def _stage_seed(options: Train, stage: int) -> int:
    return options.seed if stage == 0 else resumed_seed(options.seed, stage)


def _device(options: Train) -> str:
    return "cpu" if options.device == "auto" else options.device


def _plain(options: Train) -> dict[str, Any]:
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items()}
    return {**values, "rollout": options.steps_between, "torch": torch.__version__}


def _source(venv: VecEnv) -> str:
    (scenes,) = venv.get_attr("scenes", indices=0)
    return f"data: {scenes.source}, {len(scenes.numbers)} scenes"


def _earlier(options: Train) -> tuple[Train, dict[str, str]]:
    """The options, with the stages of the run that goes on, and what it wrote down."""
    model = options.out / MODEL_FILE
    if not options.resume:
        if model.exists():
            raise OptionError(f"{model} exists", "an empty folder or --resume", "add --resume, or choose another --out")
        if options.worlds and options.stage is None:
            options = replace(options, stage=options.stages[0][1])
        return options, {}
    if not model.exists():
        raise CheckpointError(
            f"nothing to resume: no {model}", "a model that this command saved", "start without --resume"
        )
    if options.worlds and options.stage is None:
        options = replace(options, stage=_config(options).get("stage"))
    files = {name: options.out / file for name, file in FILES.items()}
    return options, {name: file.read_text(encoding="utf-8") for name, file in files.items() if file.exists()}


REMEDY = "use the same options as before, or start anew in another --out"


def _config(options: Train) -> dict[str, Any]:
    """The options that a run began with.

    Raises:
        CheckpointError: they cannot be read.
    """
    try:
        values: dict[str, Any] = json.loads((options.out / CONFIG_FILE).read_text(encoding="utf-8-sig"))
        values.get("stage")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{options.out / CONFIG_FILE} cannot be read ({error})", "the options of the run", REMEDY
        ) from error
    return values


def _steps_of(options: Train) -> int:
    """Environment steps that the saved model has done."""
    path = options.out / MODEL_FILE
    try:
        return int(described(path)["num_timesteps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})", "a model zip of stable-baselines3", REMEDY) from error


def _load(
    options: Train, kind: Any, venv: VecEnv, stage: int, tables: dict[str, str]
) -> tuple[BaseAlgorithm, dict[str, str]]:
    """The model, put where the run was, and the tables until there."""
    path = options.out / MODEL_FILE
    now = json.loads(json.dumps(_plain(options)))
    before = {**_defaults(), **_config(options)}  # runs of before these options
    if changed := [
        f"{name}={now[name]} (was {before.get(name)})" for name in (*FIXED, *YOUNGER) if now[name] != before.get(name)
    ]:
        raise CheckpointError(f"resume with {', '.join(changed)}", "the options that the run began with", REMEDY)
    try:
        model: BaseAlgorithm = kind.load(path, env=venv, device=_device(options), force_reset=False)
        kept = go_on(model, path, _identity(options, venv), stage)
    except Exception as error:  # SB3 lets every kind of pickle, zip and torch error through
        raise CheckpointError(f"{path} cannot be read ({error})", "a model zip of stable-baselines3", REMEDY) from error
    if kept is not None:
        if model._last_obs is None:  # the next world begins; loading has seeded it like the first one
            venv.seed(_stage_seed(options, stage))
        return model, kept
    print("  other data, world or options than before, or a model of an earlier version: new episodes begin")
    # Loading has seeded policy and environments as at the very beginning: the same starts and noise would come again.
    model.set_random_seed(resumed_seed(options.seed, model.num_timesteps))
    model._last_obs = None  # reset before the next rollout
    return model, tables


def _defaults() -> dict[str, Any]:
    """Values of options that younger versions have added."""
    values = {field.name: field.default for field in fields(Train) if field.name in YOUNGER}
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


def _identity(options: Train, venv: VecEnv) -> dict[str, Any]:
    """What must be the same for a run to go on in the episodes that it was in."""
    free = {*FREE, *(field.name for field in fields(ReportOptions))}
    values = {name: value for name, value in json.loads(json.dumps(_plain(options))).items() if name not in free}
    (scenes,) = venv.get_attr("scenes", indices=0)
    return {**values, "data": scenes.index.fingerprint}


def resumed_seed(seed: int, done: int) -> int:
    """The seed of a run that goes on after ``done`` environment steps: other starts, the same for the same pair."""

    return int(np.random.SeedSequence((seed, done)).generate_state(1)[0] >> 1)
