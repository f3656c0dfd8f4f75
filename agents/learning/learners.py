"""The learners by name: of stable-baselines3, and of sb3-contrib (extra ``contrib``).

ppo             Schulman et al., arXiv 1707.06347
recurrent_ppo   PPO with an LSTM, sb3-contrib: for what one observation does not tell
sac             Haarnoja et al., ICML 2018: learns from a replay memory, in few environment steps
tqc             Kuznetsov et al., ICML 2020, sb3-contrib: SAC with quantile critics that are truncated
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.sac.policies import MultiInputPolicy as SACMultiInputPolicy
from stable_baselines3.sac.policies import SACPolicy

from world_model.core.errors import OptionError

LearnerName = Literal["ppo", "recurrent_ppo", "sac", "tqc"]
LEARNERS: tuple[str, ...] = get_args(LearnerName)
OFF_POLICY = ("sac", "tqc")
RECURRENT = "recurrent_ppo"
LSTM_WIDTH = 64


def learner_class(name: str) -> type[BaseAlgorithm]:
    """The algorithm of a name.

    Raises:
        OptionError: there is none, or it needs sb3-contrib, which is not installed.
    """
    if name in ("ppo", "sac"):
        return PPO if name == "ppo" else SAC
    contrib = _contrib(name)
    kind: type[BaseAlgorithm] = contrib.RecurrentPPO if name == RECURRENT else contrib.TQC
    return kind


def policy_class(name: str, observation_space: spaces.Space[Any]) -> type[BasePolicy]:
    """The network of a learner, for observations that are a dict or a box.

    Raises:
        OptionError: as `learner_class`.
    """
    several = isinstance(observation_space, spaces.Dict)
    if name == "ppo":
        return MultiInputActorCriticPolicy if several else ActorCriticPolicy
    if name == "sac":
        return SACMultiInputPolicy if several else SACPolicy
    contrib, kind = _contrib(name), "MultiInput" if several else "Mlp"
    lstm = "Lstm" if name == RECURRENT else ""
    module = contrib.ppo_recurrent if name == RECURRENT else contrib.tqc
    found: type[BasePolicy] = getattr(module, f"{kind}{lstm}Policy")
    return found


def _contrib(name: str) -> Any:
    if name not in LEARNERS:
        raise OptionError(f"learner {name!r}", f"one of {LEARNERS}", "choose one of them")
    try:
        import sb3_contrib
    except ImportError as error:
        raise OptionError(
            f"learner {name!r}, which cannot be imported ({error})", "sb3-contrib", "pip install 'iiworld[contrib]'"
        ) from error
    return sb3_contrib
