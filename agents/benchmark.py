"""The planner benchmark, resumable, every start once: ``python -m agents.benchmark``."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from agents.comparison import report
from agents.episodes import COLUMNS, PERCENT, Episode, drive, fixed_starts, markdown, summary
from agents.planners.build import GUIDED, POLICIES, build_planner, check_planner
from agents.planners.learned import BUNDLED
from agents.planners.names import COMFORT
from agents.starts import HORIZONS, starts_of
from ii_world_env.engine import Engine, EngineConfig
from ii_world_env.faces.options import DriveOptions
from ii_world_env.scenes import Scenes, Start, open_scenes
from ii_world_env.task.rewards import reward_function
from world_model.core.command import run
from world_model.core.errors import DataError, OptionError
from world_model.core.files import check_writable, write_json, write_text
from world_model.worlds import Stage, build_world, resolve_world

__all__ = ["COLUMNS", "PERCENT", "Benchmark", "Episode", "benchmark", "drive", "fixed_starts", "markdown", "summary"]
EPISODES_FILE, CONFIG_FILE = "episodes.csv", "config.json"
KEYS = ("starts", "world", "planner")
HEADER = (*KEYS, *(field.name for field in fields(Episode)))
ALWAYS = ("idm", "log_replay", "constant_velocity")
"""Planners that never leave the table."""
Rows = dict[tuple[str, str, str], dict[tuple[str, int], Episode]]
"""By starts, world and planner: episodes by scene and frame."""


@dataclass(frozen=True, kw_only=True)
class Benchmark(DriveOptions):
    """Drive planners through fixed starts in several worlds and compare each with IDM, start by start.

    The same command again goes on where it was interrupted, and adds planners, worlds and kinds of starts.

    Try:
      python -m agents.benchmark --planners idm+comfort cem:transport
      python -m agents.benchmark --planners ppo:outputs/ppo/policy.safetensors --worlds geometric simulated
    """

    planners: tuple[str, ...] = ("idm+comfort",)
    """As in agents.evaluate; idm, log_replay and constant_velocity are always added."""
    worlds: tuple[str, ...] = ("simulated",)
    """Worlds to drive in; with simulated among them, the gap of every other world to it is reported."""
    starts: tuple[str, ...] = ("regular", "long", "interactive")
    """Kinds of starts: regular (8 s), long (20 s), interactive (staged events, 8 s), demanding (recorded drivers minded
    others, 8 s)."""
    split: str = "val"
    """Which scenes judge."""
    scenes: int | None = None
    """Take only the first so many scenes of the split."""
    per_scene: int = 4
    """Episodes in each scene and kind of start."""
    batch: int = 8
    """Episodes that run side by side."""
    out: Path = Path("outputs/benchmark")
    """Folder for episodes.csv, results.json, results.md and config.json."""

    def __post_init__(self) -> None:
        for name in self.planners:
            check_planner(name)
        for kind in self.starts:
            if kind not in HORIZONS:
                raise OptionError(f"--starts {kind}", f"some of {', '.join(HORIZONS)}", "choose among them")
        self.check_counts("per_scene", "batch", "scenes")

    def setting(self, source: str) -> dict[str, object]:
        """What all episodes of a folder must have in common."""
        names = ("action", "reward", "split", "per_scene", "scenes")
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        return {**{name: getattr(self, name) for name in names}, "checkpoint": checkpoint, "data": source}


def benchmark(options: Benchmark) -> Rows:
    """Drive what is missing, then print and write the tables.

    Returns:
        All episodes of the folder.

    Raises:
        OptionError: the folder holds episodes of another setting.
    """
    check_writable(options.out)
    rows, failed = _earlier(options), {}
    names = list(dict.fromkeys((*ALWAYS, *options.planners)))
    for kind in options.starts:
        scenes = open_scenes(index=options.index, split=options.split, horizon=HORIZONS[kind])
        starts = starts_of(kind, scenes, options.per_scene, options.scenes)
        if not starts:
            print(f"  {kind}: no such start in these scenes")
        for world in options.worlds if starts else ():
            engine = _engine(options, world, HORIZONS[kind])
            if any(start.event for start in starts) and not isinstance(engine.world, Stage):
                print(f"  {kind}: no events can be staged in {world}")
                continue
            for name in names:
                try:
                    _drive(options, engine, scenes, starts, (kind, world, name), rows)
                except Exception as error:  # one planner that fails, of a user's own perhaps, stops no other
                    failed[f"{kind}, {world}, {name}"] = f"{type(error).__name__}: {error}"
                    print(f"\n  {name} in {world}, {kind}: {error}")
    shown = {key: value for key, value in rows.items() if key[0] in options.starts and key[1] in options.worlds}
    text, values = report(shown, failed, [resolve_world(w, options.checkpoint) for w in options.worlds])
    print(f"\n{text}")
    write_text(options.out / "results.md", text)
    write_json(options.out / "results.json", values)
    print(f"wrote {EPISODES_FILE}, results.md and results.json in {options.out}")
    return rows


def _engine(options: Benchmark, world: str, horizon: int) -> Engine:
    config = EngineConfig(action=options.action, horizon=horizon)
    built = build_world(world, checkpoint=options.checkpoint, device=options.device)
    return Engine(built, config, reward_function(options.reward), needs_occupancy=True)


def _drive(
    options: Benchmark, engine: Engine, scenes: Scenes, starts: Sequence[Start], key: tuple[str, str, str], rows: Rows
) -> None:
    """Drive the starts that a row of the table has no episode of yet, and save after every batch."""
    known = rows.get(key, {})
    left = [start for start in starts if _place(scenes, start) not in known]
    if not left:
        return
    planner, clock = build_planner(key[2], engine, scenes), time.perf_counter()
    for first in range(0, len(left), options.batch):
        for episode in drive(engine, scenes, planner, left[first : first + options.batch], options.batch):
            known[episode.scene, episode.frame] = episode
        rows[key] = known
        _save(options.out, rows)
        done = min(first + options.batch, len(left))
        spent = time.perf_counter() - clock
        print(f"\r  {key[0]}, {key[1]}, {key[2]}: {done}/{len(left)} episodes, {spent:.1f} s", end="", flush=True)
    print()


def _place(scenes: Scenes, start: Start) -> tuple[str, int]:
    return scenes.name(start.scene), start.frame - scenes.index.frames(start.scene).start


def _save(out: Path, rows: Rows) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for key, episodes in rows.items():
        writer.writerows([*key, *asdict(episode).values()] for episode in episodes.values())
    write_text(out / EPISODES_FILE, text.getvalue())


def _earlier(options: Benchmark) -> Rows:
    """Episodes of the folder; the folder is marked with the setting of this command if it is new."""
    source = open_scenes(index=options.index, split=options.split).index.fingerprint
    config, path = options.out / CONFIG_FILE, options.out / EPISODES_FILE
    setting = json.loads(json.dumps({**options.setting(source), "policies": {}}))
    policies = {name: _digest(name) for name in options.planners if _policy(name)}
    if path.exists() and config.exists():
        before = json.loads(config.read_text(encoding="utf-8-sig"))
        changed = {k: before.get(k) for k, v in setting.items() if k != "policies" and before.get(k) != v}
        changed |= {k: v for k, v in before["policies"].items() if policies.get(k, v) != v}
        if changed:
            raise OptionError(
                f"{options.out} holds episodes of {changed}", "the same setting and policies", "choose another --out"
            )
        policies = {**before["policies"], **policies}
    write_json(config, {**setting, "policies": policies})
    return _read(path) if path.exists() else {}


def _policy(name: str) -> Path | None:
    """The file of the policy that a planner drives with, or corrects; None: it has none."""
    kind, colon, path = name.rpartition(GUIDED)[2].removesuffix(COMFORT).partition(":")
    if kind not in POLICIES:
        return None
    return Path(path) if colon else BUNDLED


def _digest(name: str) -> str:
    """Which file a policy is: a name may come to mean another one."""
    path = _policy(name)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path is not None and path.is_file() else ""


def _read(path: Path) -> Rows:
    rows: Rows = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                values = {name: line[name] for name in ("scene", "end")} | {n: float(line[n]) for n in COLUMNS}
                episode = Episode(frame=int(line["frame"]), **values)  # type: ignore[arg-type]  # by name
                key = (line["starts"], line["world"], line["planner"])
                rows.setdefault(key, {})[episode.scene, episode.frame] = episode
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error})", f"columns {', '.join(HEADER)}", "delete it") from error
    return rows


def main() -> None:
    """Command line."""
    run(Benchmark, benchmark, "python -m agents.benchmark", resumes="the same command goes on where it was")


if __name__ == "__main__":
    main()
