"""Recorded episodes as a data set of Minari (https://minari.farama.org), which offline learners read."""

from __future__ import annotations

import importlib
import inspect
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Space

from agents.offline.recording import Recorded
from world_model.core.errors import OptionError, OutputError


@dataclass(frozen=True, kw_only=True)
class DataSetFacts:
    """What a data set says about itself.

    Attributes:
        name: its Minari id, such as "iiworld-drives-v0".
        observation_space, action_space: of one environment.
        spec: how the environment was made.
        more: further facts by name: strings and numbers.
    """

    name: str
    observation_space: Space[Any]
    action_space: Space[Any]
    spec: EnvSpec
    more: dict[str, Any]


def check_minari(name: str) -> None:
    """Refuse early what Minari would refuse in the end.

    Raises:
        OptionError: Minari is not installed, or the name is none of its ids.
    """
    try:
        importlib.import_module("h5py")
        names = importlib.import_module("minari.dataset.minari_dataset")
    except ImportError as error:
        found = f"Minari cannot be imported ({error})"
        raise OptionError(found, "minari with hdf5", "pip install 'iiworld[minari]'") from error
    try:
        names.parse_dataset_id(name)
    except Exception as error:  # gymnasium's own errors
        raise OptionError(f"--name {name}: {error}", "NAME-v0 or FOLDER/NAME-v0", "choose such a name") from error


def write_minari(root: Path, facts: DataSetFacts, episodes: Iterable[Recorded]) -> Path:
    """Write a data set, whole or not at all.

    Args:
        root: folder of data sets (MINARI_DATASETS_PATH).
        facts: about it.
        episodes: in order; they may come from a generator, and are written one by one.

    Returns:
        Its folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    minari: Any = importlib.import_module("minari")
    storage_kind: Any = importlib.import_module("minari.dataset.minari_storage").MinariStorage
    root = root.absolute()  # Minari joins relative paths twice
    partial, final = root / f".{facts.name.replace('/', '-')}.partial", root / facts.name
    # Class ids are no pictures: JPEG would change them.
    lossless = {"jpeg_encoding": False} if "jpeg_encoding" in inspect.signature(storage_kind.new).parameters else {}
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        storage = storage_kind.new(
            partial / "data",
            observation_space=facts.observation_space,
            action_space=facts.action_space,
            env_spec=facts.spec,
            data_format="hdf5",
            **lossless,
        )
        storage.update_metadata({"dataset_id": facts.name, "minari_version": minari.__version__, **facts.more})
        metadata = []

        def buffers() -> Iterable[Any]:
            for episode in episodes:
                metadata.append({name: getattr(episode, name) for name in ("planner", "scene", "frame", "end")})
                yield minari.data_collector.EpisodeBuffer(
                    observations=episode.observations,
                    actions=episode.actions,
                    rewards=episode.rewards,
                    terminations=episode.terminations,
                    truncations=episode.truncations,
                    infos=episode.infos,
                )

        storage.update_episodes(buffers())
        storage.update_episode_metadata(metadata)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(final)
    except OSError as error:
        found = f"could not write {final}: {error.strerror or error}"
        raise OutputError(found, "a writable folder with space", "free space or choose another --out") from error
    return final
