"""Record everything that the product computes at one commit, and compare two recordings to the bit.

    python -m tests.recordings record OUT [--jobs 2] [--quick] [--only 'env/geometric/*']
    python -m tests.recordings compare OUT_BEFORE OUT_AFTER [--ignore help]

Run it from the root of the checkout that is recorded. Both recordings must come from the same machine and the same
packages. It enters only by public doors (`gym.make`, `gym.make_vec`, `IIWorldVecEnv`, `State.save`, the commands), so
that the same file works before and after a refactoring.

OUT is a folder; ``recording.jsonl`` in it has one JSON line for each case, in a fixed order:
    key: "env/WORLD/ACTION/OBSERVATION/FACE/seedN", "env/extra/...", "commands/NAME" or "help/COMMAND".
    tracks: by name, what was seen, one token at a time (each step, or once for a file): a digest of type, shape and
        bytes of an array or a text, or the repr of a plain value. "-" means: not there in this step.
    sums: by name, sum, minimum and maximum of the numbers, to see how far two recordings are apart.
    texts: by name, small texts and tables themselves.
A case that is refused records the type and the message of the error.

The full recording has three seeds for single environments and one for batches. --quick has one seed, four steps, a
subset in which every pair of world, action, observation and face occurs, and the commands that take seconds.

Left out of the comparison, since they differ from run to run: training times (``hours``, ``seconds``, ``data_wait``),
what stable-baselines3 pickles into model.zip beside the weights, and all numbers of the benchmark. Names of folders
and files that hold a fingerprint are compared as "HASH", the fingerprints themselves in the track ``fingerprints``.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import difflib
import hashlib
import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SETTINGS = {**ONE_THREAD, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120", "MPLBACKEND": "Agg", "PYTHONHASHSEED": "0"}
os.environ.update(SETTINGS)  # before anything loads torch, in the workers too

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
ENV_ID = "IIWorld-nuScenes-v0"
NANO = "world_model/assets/nano"
WORLDS = ("geometric", "ii-world", "transport", "replay", "simulated")
ACTIONS = ("kinematic", "delta", "waypoints", "meta", "command")
OBSERVATIONS = ("bev", "occupancy", "tokens", "state")
FACES = ("single", "vector", "sb3")
COMMANDS = (
    *(f"world_model.{name}" for name in ("make_synthetic", "prepare", "train_tokenizer", "encode_tokens")),
    *(f"world_model.{name}" for name in ("train_forecaster", "train_geometric", "refine_decoder", "evaluate")),
    *(f"world_model.{name}" for name in ("fidelity", "verdict", "generate", "visualize", "verify_golden")),
    *("world_model.import_checkpoint", "world_model.calibrate_trust"),
    *("agents.train", "agents.evaluate", "ii_world_env.bench"),
)
TIMES = {"hours", "data_wait", "start_time"}  # anywhere; "seconds" only in training logs, elsewhere it is a result
LONGEST_TEXT = 60_000


# ---------------------------------------------------------------------------------------------------------- one case


@dataclass
class Case:
    """What is recorded of one case; see the top of the file."""

    key: str
    tracks: dict[str, list[str]] = field(default_factory=dict)
    sums: dict[str, list[float]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: Any, step: int = 0) -> None:
        """Add a value, whatever it is made of, as the tokens of one step."""
        if isinstance(value, dict):
            if not value:
                self._token(name, "{}", step)
            for key in sorted(value, key=str):
                self.put(f"{name}.{key}", value[key], step)
        elif isinstance(value, (list, tuple)):
            self._token(f"{name}.len", f"{type(value).__name__} {len(value)}", step)
            for i, item in enumerate(value):
                self.put(f"{name}.{i}", item, step)
        elif hasattr(value, "detach"):
            self._tensor(name, value, step)
        elif isinstance(value, np.ndarray):
            self._array(name, value, step)
        elif isinstance(value, bytes):
            self._token(name, f"bytes {len(value)} {digest(value)}", step)
        else:
            self._token(name, plain(repr(value)), step)

    def text(self, name: str, text: str) -> None:
        """Add a text, itself if it is small."""
        text = plain(text)
        self._token(name, f"text {len(text)} {digest(text.encode())}", 0)
        if len(text) <= LONGEST_TEXT:
            self.texts[name] = text

    def refused(self, error: BaseException, step: int = 0) -> None:
        """Add an error."""
        self._token("error", plain(f"{type(error).__name__}: {error}"), step)

    def _token(self, name: str, token: str, step: int) -> None:
        track = self.tracks.setdefault(name, [])
        track += ["-"] * (step - len(track))
        track.append(token)

    def _tensor(self, name: str, value: Any, step: int) -> None:
        value = value.detach().cpu().contiguous()
        kind = str(value.dtype)
        if kind == "torch.bfloat16":
            value = value.float()
        self._array(f"{name}", value.numpy(), step, kind)

    def _array(self, name: str, value: np.ndarray, step: int, kind: str = "") -> None:
        if value.dtype == object:
            self._token(f"{name}.object", str(value.shape), step)
            return self.put(name, value.tolist(), step)
        kind = f"{kind or value.dtype.str} {value.shape}".replace(" ", "")
        self._token(name, f"{kind} {digest(kind.encode() + np.ascontiguousarray(value).tobytes())}", step)
        if value.dtype.kind in "fiub" and value.size:
            total, low, high = (float(np.asarray(f(value), np.float64)) for f in (_sum, np.min, np.max))
            old = self.sums.get(name, [0.0, low, high])
            self.sums[name] = [old[0] + total, min(old[1], low), max(old[2], high)]
        return None


def _sum(value: np.ndarray) -> Any:
    return value.sum(dtype=np.float64)


def digest(data: bytes) -> str:
    """The first half of a sha256."""
    return hashlib.sha256(data).hexdigest()[:32]


def plain(text: str) -> str:
    """A text without places in the file system and in memory."""
    return re.sub(r"0x[0-9a-f]{6,}", "0x", text.replace(str(ROOT), "ROOT"))


# ------------------------------------------------------------------------------------------------------ environments


def progress_only(outcome: Any) -> dict[str, Any]:
    """A reward of a user's own that asks for no occupancy."""
    return {"progress": outcome.progress_m}


progress_only.needs_labels = False  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Drive:
    """One case of an environment."""

    key: str
    face: str
    seed: int
    steps: int
    options: dict[str, Any]
    reset: dict[str, Any] = field(default_factory=dict)
    again: bool = False  # go back to a kept state in the middle


def drives(quick: bool) -> list[Drive]:
    """All cases of the section "env", in order."""
    steps = 4 if quick else 12
    found = []
    for w, a, o, f in itertools.product(*map(range, map(len, (WORLDS, ACTIONS, OBSERVATIONS, FACES)))):
        if quick and ((o - w - a) % 2 or (f - w - 2 * a - o // 2) % 3):
            continue
        names = {"world": WORLDS[w], "action": ACTIONS[a], "observation": OBSERVATIONS[o]}
        for seed in range(1 if quick or FACES[f] != "single" else 3):
            key = "/".join(("env", *names.values(), FACES[f], f"seed{seed}"))
            found.append(Drive(key, FACES[f], seed, steps, names))
    return found + list(extra_drives(steps, quick))


def extra_drives(steps: int, quick: bool) -> Iterator[Drive]:
    """Options that are not crossed with all others."""

    def one(name: str, face: str = "single", reset: dict[str, Any] | None = None, **options: Any) -> Drive:
        again = options.pop("again", False)
        return Drive(f"env/extra/{name}/{face}", face, 5, steps, options, reset or {}, again)

    worlds = WORLDS[:1] if quick else WORLDS
    for face in FACES:
        yield one("default", face)
        for world in worlds[:2] if not quick or face == "vector" else ():
            for reward in ("pdms", "sparse"):
                yield one(f"reward-{reward}/{world}", face, world=world, reward=reward)
            yield one(f"pessimism/{world}", face, world=world, pessimism=0.5)
            yield one(f"least-trust/{world}", face, world=world, least_trust=0.45)
            yield one(f"least-trust-high/{world}", face, world=world, least_trust=0.7)
            yield one(f"faithful/{world}", face, world=world, faithful=True)
            yield one(f"ensemble/{world}", face, world=world, checkpoint=[NANO, NANO])
        yield one("own-reward", face, world="ii-world", observation="tokens", reward=progress_only)
        yield one("plan-reward", face, world="simulated", action="waypoints", reward="pdms")
        yield one("limit", face, **({"horizon": 3} if face == "single" else {"max_episode_steps": 3}))
        yield one("train-split", face, world="transport", split="all", horizon=5)
        for world in worlds:
            yield one(f"render/{world}", face, world=world, render_mode="rgb_array", horizon=3)
    for world, mode in itertools.product(worlds, ("NextStep", "SameStep", "Disabled")):
        yield one(f"autoreset-{mode}/{world}", "vector", world=world, autoreset_mode=mode, horizon=3)
    resets: dict[str, dict[str, Any]] = {
        "scene": {"scene": "scene-0121", "frame": 8},
        "number": {"scene": 1},
        "command": {"command": "left"},
        "speed": {"speed_mps": 3.5},
        "noise": {"variation": {"action_noise": 0.3, "speed_mps": 6.0}},
        "drop": {"variation": {"drop_agents": 0.5, "command": "right"}},
        "unknown": {"no_such_option": 1},
        "bad-scene": {"scene": "scene-9999"},
    }
    for (name, reset), world in itertools.product(resets.items(), worlds):
        for face in FACES[: 1 if quick else 2]:
            yield one(f"reset-{name}/{world}", face, reset, world=world)
    for world in worlds:
        yield one(f"kept-state/{world}", world=world, again=True)
        yield one(f"bfloat16/{world}", world=world, dtype="bfloat16")
    for name, options in (
        ("world", {"world": "no-such-world"}),
        ("keyword", {"no_such_keyword": 1}),
        ("checkpoint", {"checkpoint": "no/such/folder"}),
        ("horizon", {"horizon": 0}),
        ("split", {"split": "no-such-split"}),
        ("reward", {"reward": "no-such-reward"}),
        ("dataset", {"dataset": "waymo"}),
        ("render", {"render_mode": "human"}),
    ):
        yield one(f"refused-{name}", **options)


def draw(space: Any, rng: np.random.Generator) -> Any:
    """An action that does not depend on how Gymnasium samples."""
    if hasattr(space, "nvec"):
        return rng.integers(space.nvec).astype(space.dtype)
    if hasattr(space, "n"):
        return int(rng.integers(space.n))
    return rng.uniform(space.low, space.high).astype(space.dtype)


def record_drive(drive: Drive) -> Case:
    """Drive, and note everything that can be seen."""
    import torch

    case, step = Case(drive.key), 0
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    rng = np.random.default_rng(drive.seed)
    try:
        face = Face(drive)
        case.put("spaces", [re.sub(r"\s+", " ", str(space)) for space in (face.actions, face.observations)])
        case.put("reset", face.reset(drive.seed, drive.reset))
        face.look(case, step, save=True)
        for step in range(1, drive.steps + 1):
            action = face.draw(rng)
            seen, *_, ended = face.step(action)
            case.put("step", seen, step)
            face.look(case, step, save=step == drive.steps)
            if drive.again and step == drive.steps // 3:
                face.kept = face.env.unwrapped.state
            if drive.again and step == drive.steps // 2 + 1:
                case.put("reset", face.reset(None, {"state": face.kept}), step)
            elif face.by_hand and ended.any():
                options = {} if drive.face == "single" else {"reset_mask": ended}
                case.put("reset", face.reset(None, options), step)
        face.env.close()
    except Exception as error:
        case.refused(error, step)
    return case


class Face:
    """The three faces of the environment, driven in one way."""

    kept: Any = None

    def __init__(self, drive: Drive) -> None:
        import gymnasium as gym

        import ii_world_env  # noqa: F401

        self.name, options = drive.face, {"device": "cpu", **drive.options}
        self.by_hand = drive.face == "single" or drive.options.get("autoreset_mode") == "Disabled"
        if drive.face == "single":
            self.env: Any = gym.make(ENV_ID, **options)
        elif drive.face == "vector":
            self.env = gym.make_vec(ENV_ID, num_envs=2, **options)
        else:
            from ii_world_env.sb3_vec_env import IIWorldVecEnv

            self.env = IIWorldVecEnv(2, **options)
        self.actions, self.observations = self.env.action_space, self.env.observation_space
        self.pictures = "render_mode" in options

    def draw(self, rng: np.random.Generator) -> Any:
        """An action, or two."""
        return np.stack([draw(self.actions, rng) for _ in range(2)]) if self.name == "sb3" else draw(self.actions, rng)

    def reset(self, seed: int | None, options: dict[str, Any]) -> dict[str, Any]:
        """Begin episodes."""
        if self.name == "sb3":
            self.env.seed(seed)
            if options:
                self.env.set_options(options)
            return {"observation": self.env.reset(), "info": self.env.reset_infos}
        observation, info = self.env.reset(seed=seed, options=options or None)
        return {"observation": observation, "info": info}

    def step(self, action: Any) -> tuple[dict[str, Any], np.ndarray]:
        """Drive a step; what was seen, and which episodes have ended."""
        if self.name == "sb3":
            observation, reward, done, info = self.env.step(action)
            seen = {"observation": observation, "reward": reward, "done": done, "info": info}
            return {**seen, "reset_info": self.env.reset_infos}, done
        observation, reward, terminated, truncated, info = self.env.step(action)
        seen = {"observation": observation, "reward": reward, "terminated": terminated, "truncated": truncated}
        return {**seen, "info": info}, np.logical_or(terminated, truncated)

    def look(self, case: Case, step: int, save: bool) -> None:
        """Occupancy, picture and, when asked, the state as `State.save` writes it."""
        from safetensors import safe_open

        if self.name == "sb3":
            states, occupancy = self.env.get_attr("state"), self.env.get_attr("occupancy")
        else:
            states, occupancy = [self.env.unwrapped.state], self.env.unwrapped.occupancy
        case.put("occupancy", occupancy, step)
        if self.pictures:
            case.put("picture", self.env.get_images() if self.name == "sb3" else self.env.render(), step)
        for i, state in enumerate(states if save else ()):
            with tempfile.TemporaryDirectory() as folder:
                state.save(Path(folder) / "state.safetensors")
                with safe_open(str(Path(folder) / "state.safetensors"), "pt") as file:
                    case.put(f"state{i}.metadata", file.metadata() or {}, step)
                    case.put(f"state{i}", {name: file.get_tensor(name) for name in file.keys()}, step)  # noqa: SIM118


# ------------------------------------------------------------------------------------------------------------ files


def record_file(case: Case, name: str, path: Path) -> None:
    """The content of a file, without what differs from run to run."""
    kind = path.suffix
    if kind in (".png", ".gif"):
        from PIL import Image, ImageSequence

        with Image.open(path) as image:
            frames = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]
        for i, frame in enumerate(frames):
            case.put(name, frame, i)
    elif kind in (".npz", ".npy"):
        with path.open("rb") as stream:
            content = np.load(stream)
            case.put(name, dict(content.items()) if kind == ".npz" else content)
    elif kind == ".safetensors":
        from safetensors import safe_open

        with safe_open(str(path), "pt") as file:
            metadata = {key: tidy(json.loads(value)) for key, value in (file.metadata() or {}).items()}
            case.text(f"{name}.metadata", json.dumps(metadata, indent=1, sort_keys=True))
            case.put(name, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    elif kind in (".pt", ".pth"):
        record_torch(case, name, path.read_bytes())
    elif kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            case.put(f"{name}.members", sorted(archive.namelist()))
            for member in (each for each in archive.namelist() if each.endswith(".pth")):
                record_torch(case, f"{name}.{member}", archive.read(member))
            data = json.loads(archive.read("data")) if "data" in archive.namelist() else {}
            scalars = {k: v for k, v in tidy(data).items() if not isinstance(v, dict)}
            case.text(f"{name}.data", json.dumps(scalars, indent=1, sort_keys=True))
    elif kind == ".csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
        kept = [{k: v for k, v in row.items() if k not in TIMES | {"seconds"}} for row in rows]
        case.text(name, "\n".join(", ".join(f"{k}={v}" for k, v in row.items()) for row in kept))
    elif kind in (".json", ".md", ".txt"):
        text = path.read_text()
        case.text(name, json.dumps(tidy(json.loads(text)), indent=1, sort_keys=True) if kind == ".json" else text)
    else:
        case.put(name, path.read_bytes())


def record_torch(case: Case, name: str, data: bytes) -> None:
    """A file of torch.save: tensors and plain values; training times are dropped."""
    import torch

    case.put(name, tidy(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), TIMES | {"seconds"}))


def tidy(value: Any, dropped: set[str] | frozenset[str] = frozenset(TIMES)) -> Any:
    """Nested values without times."""
    if isinstance(value, dict):
        return {key: tidy(item, dropped) for key, item in value.items() if key not in dropped}
    return [tidy(item, dropped) for item in value] if isinstance(value, (list, tuple)) else value


# --------------------------------------------------------------------------------------------------------- commands


# One command a line: name, whether it belongs to --quick ("q") or writes numbers that always differ ("t"), what must
# have run before, and the command line. It writes below what follows --out and --work.
COMMAND_TABLE = """
make_synthetic q - world_model.make_synthetic --out data --seed 3 --scenes-per-town 1 {size}
prepare q make_synthetic world_model.prepare --data-root data --out data/iiworld_index.npz
verdict - prepare world_model.verdict --index data --worlds geometric --scenes 1 --stride 40 --out verdict
fidelity - prepare world_model.fidelity --index data --worlds geometric ii-world transport --limit 1 --stride 40 \
 --horizons-s 1.0 2.0 --chases 1 --out fidelity
evaluate - prepare world_model.evaluate --index data --world geometric ii-world --regimes gt-ego pred-ego action \
 --max-scenes 2 --max-windows 4 --workers 1 --out evaluate
evaluate_demo q - world_model.evaluate --max-scenes 1 --max-windows 1 --what forecasting --workers 1 --out demo
train_tokenizer q prepare world_model.train_tokenizer --index data --out tok --iterations 3 --voxels 3000 {tiny}
encode_tokens q train_tokenizer world_model.encode_tokens --index data --tokenizer tok --out tokens --split train
train_forecaster q encode_tokens world_model.train_forecaster --index data --tokens tokens --tokenizer tok --out world \
 --iterations 3 {tiny}
refine_decoder q train_forecaster world_model.refine_decoder --index data --tokens tokens --checkpoint world \
 --out refined --iterations 2 --batch 2 --log-every 1
train_geometric q prepare world_model.train_geometric --index data --out geometric --iterations 3 {tiny}
train_motion - train_geometric world_model.train_geometric --index data --out motion --init geometric --learn motion \
 --iterations 2 --log-every 1
evaluate_trained - refine_decoder world_model.evaluate --index data --checkpoint refined --max-scenes 1 \
 --max-windows 1 --workers 1 --out evaluate_trained
trust_geometric - prepare world_model.calibrate_trust --index data --world geometric --stride 40 --steps 4 \
 --out trust/geometric.json --work trust_geometric
trust_ii-world - prepare world_model.calibrate_trust --index data --world ii-world --stride 40 --steps 4 \
 --out trust/ii-world.json --work trust_ii-world
generate_logged q - world_model.generate --control logged --steps 4 --out logged
generate_left - - world_model.generate --world ii-world --control left --steps 4 --out left
generate_sampled - - world_model.generate --control sampled --seed 3 --scene scene-0132 --steps 4 --out sampled
generate_edited - - world_model.generate --edit.speed 1.5 --edit.shift-m 1 --world transport --steps 4 --out edited
visualize_forecast - generate_left world_model.visualize left/scene-0121_004_left/forecast.npz --out forecast/picture
visualize_labels - - world_model.visualize {demo}/gts/scene-0121/0b9e96b1d7b1a8c66293a85ce08f9a58/labels.npz \
 --out labels/picture
agents_geometric q - agents.evaluate --world geometric {planners} --out planners_geometric
agents_ii-world - - agents.evaluate --world ii-world {planners} --out planners_ii-world
agents_transport - - agents.evaluate --world transport {planners} --out planners_transport
agents_replay - - agents.evaluate --world replay {planners} --out planners_replay
agents_simulated - - agents.evaluate --world simulated {planners} --out planners_simulated
agents_train - - agents.train --timesteps 32 --num-envs 2 --rollout 8 --minibatch 8 --epochs 1 --horizon 4 --out ppo
agents_ppo - agents_train agents.evaluate --planners ppo:ppo/model.zip --scenes 1 --horizon 4 --out planners_ppo
verify_golden - - world_model.verify_golden {golden} --out golden.md
bench t - ii_world_env.bench --world transport --steps 2 --runs 1 --batches 1 2 --out bench.json
refused_scene - - world_model.generate --scene no-such-scene --out refused
refused_index q - world_model.evaluate --index no/such/folder --out refused_index
"""


@dataclass(frozen=True)
class Command:
    """A command line of the product, run in the shared working folder."""

    name: str
    marks: str
    needs: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def out(self) -> list[str]:
        """Where it writes; pictures are named without their suffix."""
        after = [word for before, word in itertools.pairwise(self.words) if before in ("--out", "--work")]
        return [word.removesuffix("/picture") for word in after]


def commands(quick: bool) -> list[Command]:
    """All command lines of the section "commands"."""
    filled = COMMAND_TABLE.strip().format(
        size="--scenes 2 --val-fraction 0.5" if quick else "--scenes 8 --val-fraction 0.75",
        tiny="--preset tiny --batch 2 --log-every 1",
        planners="--scenes 2 --horizon 6 --planners stand_still constant_velocity log_replay idm",
        demo=ROOT / "world_model/assets/demo",
        golden=ROOT / "tests/golden",
    )
    rows = [line.split() for line in filled.splitlines()]
    found = [Command(name, marks, () if need == "-" else (need,), tuple(line)) for name, marks, need, *line in rows]
    return [command for command in found if "q" in command.marks or not quick]


def run(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python -m ...`` with the code of this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, *words]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)


def record_command(command: Command, folder: Path) -> Case:
    """Run a command; its exit code, its refusal, and all that it wrote."""
    case = Case(f"commands/{command.name}")
    ended = run(["-m", *command.words], folder)
    case.put("exit code", ended.returncode)
    if ended.returncode:
        case.text("refusal", (ended.stderr + ended.stdout)[-2000:].replace(str(folder), "FOLDER"))
    files = sorted(
        path
        for out in command.out
        for path in ([folder / out] if (folder / out).is_file() else (folder / out).rglob("*"))
        if path.is_file()
    )
    prints = [text for path in files for text in re.findall(FINGERPRINT, str(path.relative_to(folder)))]
    names: dict[str, list[Path]] = {}
    for path in files:
        name = str(path.relative_to(folder))
        names.setdefault(name if "gts/" in name else re.sub(FINGERPRINT, "HASH", name), []).append(path)
    case.put("files", [f"{name} x{len(paths)}" for name, paths in sorted(names.items())])
    for name, paths in names.items():
        parts = []
        for path in paths:
            parts.append(Case(""))
            record_file(parts[-1], name, path)
            if "t" in command.marks:  # only what it is made of
                parts[-1] = Case("")
                parts[-1].text(name, re.sub(r"[-\d][\d.e-]*", "#", path.read_text()))
        # Files whose names differ only in a fingerprint are put in the order of their contents.
        for i, part in enumerate(sorted(parts, key=lambda part: json.dumps(part.tracks, sort_keys=True))):
            mark = f"[{i}]" if len(parts) > 1 else ""
            for mine, theirs in ((case.tracks, part.tracks), (case.sums, part.sums), (case.texts, part.texts)):
                mine.update({mark + name: value for name, value in theirs.items()})
    if "gts" not in " ".join(names) and prints:
        case.put("fingerprints", sorted(set(prints)))
    return case


FINGERPRINT = r"(?<![0-9a-f])[0-9a-f]{8,}(?![0-9a-f])"


ALL_HELP = """
import contextlib, io, json, runpy, sys
found = {}
for command in sys.argv[1:]:
    sys.argv, text, code = [command, "--help"], io.StringIO(), None
    try:
        with contextlib.redirect_stdout(text):
            runpy.run_module(command, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except Exception as error:
        code = repr(error)
    found[command] = [code, text.getvalue()]
print(json.dumps(found))
"""


def record_help(names: Sequence[str], folder: Path) -> list[Case]:
    """What ``--help`` of each command says; in one process, since they import the same."""
    cases = []
    for name, (code, text) in json.loads(run(["-c", ALL_HELP, *names], folder).stdout).items():
        cases.append(Case(f"help/{name}"))
        cases[-1].put("exit code", code)
        cases[-1].text("text", text)
    return cases


# ------------------------------------------------------------------------------------------------------------ record


@dataclass(frozen=True)
class Unit:
    """Work of one process: cases of one section."""

    name: str
    kind: str
    keys: tuple[str, ...]
    payload: Any
    needs: tuple[str, ...] = ()


def units(quick: bool, only: str) -> tuple[list[Unit], list[str]]:
    """The work, in the order it is begun, and the keys that are recorded, in their order."""
    found = [Unit(c.name, "command", (f"commands/{c.name}",), c, c.needs) for c in commands(quick)]
    found.append(Unit("help", "help", tuple(f"help/{name}" for name in COMMANDS), COMMANDS))
    wanted_drives = [drive for drive in drives(quick) if fnmatch(drive.key, only)]
    for name, group in itertools.groupby(wanted_drives, lambda d: "/".join(d.key.split("/")[:3])):
        several = list(group)
        found.append(Unit(f"{name} ({len(found)})", "env", tuple(d.key for d in several), several))
    keys = [key for unit in found for key in unit.keys if fnmatch(key, only)]
    wanted = {unit.name for unit in found if any(key in keys for key in unit.keys)}
    while more := {need for unit in found if unit.name in wanted for need in unit.needs} - wanted:
        wanted |= more
    return [unit for unit in found if unit.name in wanted], sorted(keys)


def work(unit: Unit, folder: Path) -> list[Case]:
    """In a worker process: record a unit."""
    warnings.simplefilter("ignore")
    if unit.kind == "command":
        return [record_command(unit.payload, folder)]
    if unit.kind == "help":
        return record_help(unit.payload, folder)
    import torch

    torch.set_num_threads(1)
    os.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return [record_drive(drive) for drive in unit.payload]


def record(out: Path, jobs: int, quick: bool, only: str) -> None:
    """Record into a folder, atomically."""
    waiting, keys = units(quick, only)
    if not keys:
        raise SystemExit(f"nothing to record is named {only!r}")
    lines: dict[str, str] = {}
    done: set[str] = set()
    running: dict[Future[list[Case]], Unit] = {}
    begun, total = time.monotonic(), len(waiting)
    with (
        tempfile.TemporaryDirectory(prefix="recordings_") as folder,
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
    ):
        while waiting or running:
            for unit in [unit for unit in waiting if set(unit.needs) <= done][: jobs - len(running)]:
                running[pool.submit(work, unit, Path(folder))] = unit
                waiting.remove(unit)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                unit = running.pop(future)
                done.add(unit.name)
                lines.update({case.key: json.dumps(case.__dict__, sort_keys=True) for case in future.result()})
                print(f"[{time.monotonic() - begun:5.0f} s] {len(done)}/{total} {unit.name}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    partial = out / "recording.jsonl.partial"
    partial.write_text("".join(lines[key] + "\n" for key in keys))
    partial.replace(out / "recording.jsonl")
    print(f"{len(keys)} cases in {time.monotonic() - begun:.0f} s: {out / 'recording.jsonl'}")


# ----------------------------------------------------------------------------------------------------------- compare


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """A recording by key."""
    cases = map(json.loads, (folder / "recording.jsonl").read_text().splitlines())
    return {case["key"]: case for case in cases}


def differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[str]:
    """What differs between two recordings of one case, in words."""
    for name in sorted({*a["tracks"], *b["tracks"]}):
        old, new = a["tracks"].get(name), b["tracks"].get(name)
        if old == new:
            continue
        if old is None or new is None:
            yield f"{name}: only in {'B' if old is None else 'A'}"
        elif name in a["texts"] and name in b["texts"]:
            before, after = a["texts"][name].splitlines(), b["texts"][name].splitlines()
            diff = list(difflib.unified_diff(before, after, "A", "B", lineterm="", n=1))
            yield f"{name}:\n      " + "\n      ".join(diff[:24] + ["..."] * (len(diff) > 24))
        else:
            pairs = list(itertools.zip_longest(old, new, fillvalue="-"))
            where = [i for i, (one, other) in enumerate(pairs) if one != other]
            one, other = pairs[where[0]]
            text = (
                f"{name}: {len(where)} of {len(pairs)} differ, first number {where[0]}\n      A {one}\n      B {other}"
            )
            sums = [
                f"\n      {side} sum, min, max {c['sums'][name]}" for side, c in zip("AB", (a, b)) if name in c["sums"]
            ]
            yield text + "".join(sums)


def compare(a: Path, b: Path, ignore: list[str]) -> int:
    """Print what differs; 1 if anything does."""
    old, new = load(a), load(b)
    sections = sorted({key.split("/")[0] for key in (*old, *new)})
    bad = 0
    for section in (name for name in sections if name not in ignore):
        keys = sorted(key for key in {*old, *new} if key.split("/")[0] == section)
        unequal = 0
        for key in keys:
            if key not in old or key not in new:
                found = [f"the case is only in {'B' if key not in old else 'A'}"]
            else:
                found = list(differences(old[key], new[key]))
            if found:
                unequal += 1
                print(key, *found[:12], *([f"... and {len(found) - 12} more"] if len(found) > 12 else []), sep="\n    ")
        print(f"{section}: {len(keys)} cases, {unequal} differ")
        bad += unequal
    print(f"{'EQUAL' if not bad else f'{bad} cases DIFFER'}" + (f" (ignored: {', '.join(ignore)})" if ignore else ""))
    return int(bad > 0)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    both = parser.add_subparsers(dest="what", required=True)
    one = both.add_parser("record", help="record this checkout")
    one.add_argument("out", type=Path)
    one.add_argument("--jobs", type=int, default=2)
    one.add_argument("--quick", action="store_true")
    one.add_argument("--only", default="*", help="only cases whose key fits this pattern")
    two = both.add_parser("compare", help="compare two recordings")
    two.add_argument("a", type=Path)
    two.add_argument("b", type=Path)
    two.add_argument(
        "--ignore", nargs="*", default=[], choices=("env", "commands", "help"), help="sections to leave out"
    )
    args = parser.parse_args()
    if args.what == "compare":
        return compare(args.a, args.b, args.ignore)
    record(args.out, args.jobs, args.quick, args.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
