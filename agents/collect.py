"""Record drives of planners as a Minari data set: ``python -m agents.collect``."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from agents.episodes import fixed_starts
from agents.offline.minari_data import DataSetFacts, check_minari, write_minari
from agents.offline.recording import Recorded, load, record, save
from agents.planners.build import build_planner, check_planner
from ii_world_env import ENV_ID
from ii_world_env.faces.config import EnvConfig
from ii_world_env.faces.episodes import Episodes
from ii_world_env.faces.options import DriveOptions
from ii_world_env.scenes import Start
from world_model.core.command import run
from world_model.core.errors import DataError, OptionError
from world_model.core.files import check_writable, write_json
from world_model.worlds import resolve_world
from world_model.worlds.provenance import weights_source

CONFIG_FILE, PARTS = "collect.json", "parts"


@dataclass(frozen=True, kw_only=True)
class Collect(DriveOptions):
    """Record drives of planners as a Minari data set, for offline learners such as those of d3rlpy.

    Every planner drives the same starts. A run that was stopped goes on with the same command to the same data.

    Try:
      python -m agents.collect --observation state --scenes 2
      python -m agents.collect --index data/synthetic --planners log_replay idm cem --split train --out outputs/minari
      MINARI_DATASETS_PATH=outputs/minari python -c "import minari; print(minari.load_dataset('iiworld-drives-v0'))"
    """

    planners: tuple[str, ...] = ("log_replay", "idm")
    """Experts: any of log_replay, idm, constant_velocity, stand_still; cem, mppi; ppo:PATH; package.module:Class."""
    observation: str = "bev"
    """bev, occupancy, state, traffic, traffic_timed, tokens (only in the world ii-world), or package.module:Class."""
    split: str | None = None
    """Which scenes: train, val or all. If not given: train, or all of the bundled demo scenes."""
    scenes: int | None = None
    """Take only the first so many scenes of the split."""
    per_scene: int = 4
    """Episodes of every planner in each scene, started at evenly spread frames."""
    batch: int = 8
    """Episodes that run side by side."""
    name: str = "iiworld-drives-v0"
    """Minari's name of the data set."""
    out: Path = Path("outputs/minari")
    """Folder of the data set: what MINARI_DATASETS_PATH has to say to load it."""

    def __post_init__(self) -> None:
        for name in self.planners:
            check_planner(name)
        if not self.planners or len(set(self.planners)) < len(self.planners):
            raise OptionError(f"--planners {' '.join(self.planners)}", "different planners, at least one", "see --help")
        self.check_counts("per_scene", "batch", "horizon", "scenes")


def collect(options: Collect) -> Path:
    """Drive what is missing, then write the data set.

    Returns:
        Its folder.

    Raises:
        OptionError: Minari is absent, the folder holds the drives of other options, or the data set exists already.
        DataError: no scene is long enough.
    """
    check_minari(options.name)
    final = options.out / options.name
    if final.exists():
        raise OptionError(f"{final} exists", "a new name", "choose another --name or --out, or delete it")
    check_writable(options.out)
    split = options.split or ("all" if options.index is None else "train")
    keywords = {**options.keywords(), "split": split, "observation": options.observation}
    episodes = Episodes(EnvConfig.of(keywords), options.batch)
    starts = fixed_starts(episodes.scenes, options.per_scene, options.scenes)
    if not starts:
        raise DataError(f"no start in split {split!r}", "longer scenes", "choose another --split or --horizon")
    parts = options.out / PARTS / options.name.replace("/", "-")
    _check_same(parts, options, episodes)
    chunks = [starts[first : first + options.batch] for first in range(0, len(starts), options.batch)]
    total, begin = len(options.planners) * len(starts), time.perf_counter()
    for number, name in enumerate(options.planners):
        _drive(episodes, name, chunks, _files(parts, number, len(chunks)), (number * len(starts), total, begin))
    written = write_minari(
        options.out, _facts(options, keywords, episodes), _recorded(parts, len(options.planners), len(chunks))
    )
    shutil.rmtree(options.out / PARTS)
    print(f"wrote {written}: {total} episodes; MINARI_DATASETS_PATH={options.out} loads {options.name!r}")
    return written


def _files(parts: Path, planner: int, chunks: int) -> list[Path]:
    return [parts / f"{planner:02d}-{chunk:05d}.npz" for chunk in range(chunks)]


def _drive(
    episodes: Episodes,
    name: str,
    chunks: Sequence[Sequence[Start]],
    files: Sequence[Path],
    progress: tuple[int, int, float],
) -> None:
    """Drive the chunks that are not there yet."""
    done, total, begin = progress
    planner = None
    for chunk, file in zip(chunks, files, strict=True):
        if load(file) is None:
            # Made once it is needed, and made anew for every chunk: what it remembers belongs to its episodes.
            planner = build_planner(name, episodes.engine, episodes.scenes)
            save(file, record(episodes, planner, name, chunk))
        done += len(chunk)
        print(f"\r  {name}: {done}/{total} episodes, {time.perf_counter() - begin:.1f} s", end="", flush=True)
    print()


def _recorded(parts: Path, planners: int, chunks: int) -> Iterator[Recorded]:
    for planner in range(planners):
        for file in _files(parts, planner, chunks):
            found = load(file)
            if found is None:
                raise DataError(f"{file} cannot be read", "what this run wrote", "give the same command again")
            yield from found


def _check_same(parts: Path, options: Collect, episodes: Episodes) -> None:
    """Refuse to go on with drives of other options or data."""
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items() if k not in ("out", "index")}
    index = episodes.scenes.index
    setting = json.loads(json.dumps({**values, "data": index.fingerprint, "labels": index.labels_digest}))
    path = parts / CONFIG_FILE
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8-sig"))
        if changed := {k: before.get(k) for k, v in setting.items() if before.get(k) != v}:
            raise OptionError(
                f"{parts} holds drives of {changed}", "the same options and data", "choose another --out, or delete it"
            )
    write_json(path, setting)


def _facts(options: Collect, keywords: dict[str, object], episodes: Episodes) -> DataSetFacts:
    trained_on = weights_source(options.world, options.checkpoint)
    absolute: dict[str, Any] = {
        name: str(Path(str(value)).absolute()) if name in ("index", "checkpoint") and value is not None else value
        for name, value in keywords.items()
    }
    env = gym.make(ENV_ID, max_episode_steps=options.horizon, **absolute)
    spec = env.spec
    assert spec is not None
    return DataSetFacts(
        name=options.name,
        observation_space=episodes.observation_space,
        action_space=episodes.action_space,
        spec=spec,
        more={
            "algorithm_name": ", ".join(options.planners),
            "description": f"Drives of {', '.join(options.planners)} in IIWorld, data: {episodes.scenes.source}",
            "data_source": episodes.scenes.source,
            "weights_source": str(trained_on),
            "world": resolve_world(options.world, options.checkpoint),
        },
    )


def main() -> None:
    """Command line."""
    run(Collect, collect, "python -m agents.collect", resumes="the same command goes on where it was")


if __name__ == "__main__":
    main()
