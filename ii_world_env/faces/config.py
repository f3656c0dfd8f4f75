"""What can be chosen when an environment is made: one list for the single, the vector and the SB3 environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ii_world_env.task.rewards import RewardFunction
from world_model.core.errors import KeywordError, OptionError
from world_model.worlds.traffic import DEFAULT_TRAFFIC, VOXELS


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Keywords of ``gym.make("IIWorld-nuScenes-v0", ...)``; plain values, since specs are copied and written as JSON.

    Paths may come as `Path` and may begin with ``~``, the home folder.

    Args:
        world: "learned" (what the checkpoint holds: "geometric", else "ii-world"), "geometric", "ii-world",
            "occworld", "occsora", "transport", "replay", "simulated", or "package.module:Class".
        checkpoint: folder of a trained model; None is the bundled one; several (a list, or names separated by commas)
            make an ensemble, whose disagreement is part of the forecast trust.
        index: index file of `python -m world_model.prepare`.
        data_root: folder of the data; without it and ``index`` the bundled demo scenes.
        split: "train", "val" or "all".
        dataset: "any", or what the index must hold: "nuscenes", "stcocc", "waymo" or "uniocc". The environment ids of
            single data sets set it; with anything but "any" there are no demo scenes to fall back on.
        action: name of the action mode.
        observation: name of the observation mode, or "package.module:Class" of an `Observation`.
        reward: name of a preset, a callable from `Outcome` to named terms, or its import path.
        horizon: steps of 0.5 s until truncation.
        finite_horizon: the horizon terminates instead, see `EngineConfig`.
        pessimism: what a step without any forecast trust costs, see `Pessimistic`; only in worlds that have a trust.
        least_trust: forecasts below this trust end the episode as "untrusted"; only in worlds that have a trust.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        dtype: "auto", "float32" or "bfloat16".
        faithful: keep the mistakes of the published model (`world_model.checkpoints.deviations`), for published
            weights; None as the checkpoint says. Only in learned worlds.
        self_check: let the geometric world forecast the observed past at every reset, and believe what was observed
            where its network is worse.
        kept_mib: memory for start states that have been reset before, so that training does not reset the same ones
            again; 0 keeps none. Some 20 to 70 kB a start, so a few hundred MiB hold all starts of 100 scenes.
        traffic, agents: how other road users move in the geometric world, and where they are known from, see
            `world_model.worlds.traffic.TrafficConfig`.
    """

    world: str = "learned"
    checkpoint: str | Path | list[str | Path] | None = None
    index: str | Path | None = None
    data_root: str | Path | None = None
    split: str = "val"
    dataset: str = "any"
    action: str = "kinematic"
    observation: str = "bev"
    reward: str | RewardFunction = "default"
    horizon: int = 16
    finite_horizon: bool = False
    pessimism: float = 0.0
    least_trust: float = 0.0
    device: str = "auto"
    dtype: str = "auto"
    faithful: bool | None = None
    self_check: bool = True
    kept_mib: float = 0.0
    traffic: str = DEFAULT_TRAFFIC
    agents: str = VOXELS

    def __post_init__(self) -> None:
        for name in ("world", "split", "dataset", "action", "observation", "device", "dtype", "traffic", "agents"):
            if not isinstance(getattr(self, name), str):
                raise _wrong_type(name, getattr(self, name), "a name")
        for name in ("checkpoint", "index", "data_root"):
            value = getattr(self, name)
            several = value if name == "checkpoint" and isinstance(value, (list, tuple)) and value else [value]
            if value is not None and not all(isinstance(one, (str, Path)) for one in several):
                raise _wrong_type(name, value, "a path, or None")
            object.__setattr__(self, name, each_path(value, _expanded))
        if self.faithful is not None and not isinstance(self.faithful, bool):
            raise OptionError(f"faithful={self.faithful!r}", "None, True or False", "leave it out")
        if isinstance(self.kept_mib, bool) or not isinstance(self.kept_mib, (int, float)) or not self.kept_mib >= 0:
            raise OptionError(f"kept_mib={self.kept_mib!r}", "a number of MiB >= 0", "leave it out")
        if not isinstance(self.self_check, bool):
            raise OptionError(f"self_check={self.self_check!r}", "True or False", "leave it out")

    @classmethod
    def of(cls, options: dict[str, Any]) -> EnvConfig:
        """From the keywords of a constructor.

        Raises:
            KeywordError: an unknown keyword, in Python's words: TorchRL tries a keyword and reads the refusal.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            found = f"unexpected keyword argument {', '.join(map(repr, unknown))}"
            raise KeywordError(found, ", ".join(known), "remove or rename it")
        return cls(**options)


def each_path(value: Any, change: Callable[[Any], Any]) -> Any:
    """A path, or each one of a list of paths, changed; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return [each_path(one, change) for one in value]
    return change(value) if isinstance(value, (str, Path)) else value


def _expanded(path: str | Path) -> str | Path:
    if isinstance(path, Path):
        return path.expanduser()
    # Names separated by commas make an ensemble.
    return ",".join(os.path.expanduser(name.strip()) if "~" in name else name for name in path.split(","))


def _wrong_type(name: str, value: object, expected: str) -> OptionError:
    return OptionError(f"{name}={value!r} of type {type(value).__name__}", expected, "give a string")
