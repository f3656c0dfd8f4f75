"""Episodes of a planner as they are recorded: observations, actions, rewards, numbers of the infos; in batches.

Legend: N environments, T steps of an episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.planners.planner import Planner
from ii_world_env.faces.episodes import ENDS, Episodes
from ii_world_env.scenes import Start
from world_model.core.files import DAMAGED_NPZ, write_npz

SEPARATOR = "/"
FACTS = ("planner", "scene", "frame", "end")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One episode.

    Attributes:
        planner: who drove. scene: its name. frame: keyframe in it where the episode began. end: why it ended.
        observations: (T + 1, ...) array, or a dict of them: the last one is that of the end.
        actions: (T, ...) in the action space.
        rewards: (T,) float64. terminations, truncations: (T,) bool.
        infos: (T + 1, ...) every number of the infos by name, nested as they are; the first are those of the reset.
    """

    planner: str
    scene: str
    frame: int
    end: str
    observations: Any
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminations: NDArray[Any]
    truncations: NDArray[Any]
    infos: dict[str, Any]


def record(episodes: Episodes, planner: Planner, name: str, starts: Sequence[Start]) -> list[Recorded]:
    """Drive one episode from each of up to N starts, side by side.

    Args:
        episodes: N of them. Fewer starts are filled up, so that every batch computes alike.
        planner: who drives.
        name: what it is called in the data.
        starts: where from.
    """
    rows, index = range(episodes.count), episodes.scenes.index
    places = [starts[min(row, len(starts) - 1)] for row in rows]
    frames = [start.frame - index.frames(start.scene).start for start in places]
    options = [{"scene": start.scene, "frame": frame} for start, frame in zip(places, frames, strict=True)]
    begun = episodes.begin([np.random.default_rng(0) for _ in rows], options)
    infos = [_numbers(episodes.set_states(rows, begun))]
    observed, actions, results = [episodes.observe()], [], []
    planner.reset(episodes.engine.with_occupancy(episodes.state))
    space = episodes.action_space
    while (episodes.ends[: len(starts)] == 0).any():
        wanted = planner.act(episodes.engine.with_occupancy(episodes.state)).cpu().numpy()
        action = wanted.reshape(episodes.count, *(space.shape or ())).astype(space.dtype)
        if space.dtype == np.float32:
            action = action.clip(-1, 1)
        results.append(episodes.step(episodes.actions(action)))
        actions.append(action)
        observed.append(episodes.observe())
        infos.append(_numbers(results[-1].infos))
    over = np.stack([result.terminated | result.truncated for result in results])
    found = []
    for row, start in enumerate(starts):
        steps = int(over[:, row].argmax()) + 1
        found.append(
            Recorded(
                planner=name,
                scene=episodes.scenes.name(start.scene),
                frame=frames[row],
                end=str(ENDS[episodes.ends[row]]),
                observations=_along(observed[: steps + 1], row),
                actions=_along(actions[:steps], row),
                rewards=np.array([result.reward[row] for result in results[:steps]]),
                terminations=np.array([result.terminated[row] for result in results[:steps]]),
                truncations=np.array([result.truncated[row] for result in results[:steps]]),
                infos=_along(infos[: steps + 1], row),
            )
        )
    return found


def save(path: Path, episodes: Sequence[Recorded]) -> None:
    """Write episodes to an npz, atomically.

    Raises:
        OutputError: the folder cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {"count": np.array(len(episodes))}
    for number, episode in enumerate(episodes):
        _flatten(vars(episode), str(number), arrays)
    write_npz(path, **arrays)


def load(path: Path) -> list[Recorded] | None:
    """What `save` wrote; None where there is no such file, or where it cannot be read."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        count, tree = int(arrays.pop("count")), dict[str, Any]()
        for name, array in arrays.items():
            *folders, leaf = name.split(SEPARATOR)
            place = tree
            for folder in folders:
                place = place.setdefault(folder, {})
            place[leaf] = array
        return [
            Recorded(**{k: v.item() if k in FACTS else v for k, v in tree[str(number)].items()})
            for number in range(count)
        ]
    except (*DAMAGED_NPZ, TypeError, AttributeError):
        return None


def _numbers(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that hold numbers."""
    return {
        name: _numbers(column) if isinstance(column, Mapping) else column
        for name, column in columns.items()
        if isinstance(column, Mapping) or (isinstance(column, np.ndarray) and column.dtype.kind in "biuf")
    }


def _along(moments: Sequence[Any], row: int) -> Any:
    """One row of each moment, stacked: arrays (T, ...), in dicts as they come."""
    if isinstance(moments[0], Mapping):
        return {name: _along([moment[name] for moment in moments], row) for name in moments[0]}
    return np.stack([moment[row] for moment in moments])


def _flatten(value: Any, name: str, arrays: dict[str, NDArray[Any]]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(item, f"{name}{SEPARATOR}{key}", arrays)
    else:
        arrays[name] = np.asarray(value)
