"""Policies on disk: weights in safetensors, and how to drive with them in its metadata. Loading executes nothing.

`model.zip` of stable-baselines3 goes on training; `policy.safetensors` drives.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gymnasium import spaces
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor

from agents.learning.learners import LEARNERS, LSTM_WIDTH, OFF_POLICY, RECURRENT, policy_class
from agents.learning.normalise import MEAN, VARIANCE, Normaliser
from ii_world_env.observations.extractor import extractor_for
from world_model.core.errors import CheckpointError
from world_model.core.files import atomic_write

FORMAT = "iiworld.policy/1"
POLICY_FILE = "policy.safetensors"
LARGEST_LAYER = 4096
SHARED = ("pi_features_extractor.", "vf_features_extractor.")
"""Other names under which stable-baselines3 lists the weights of its one features extractor."""
REMEDY = "give the policy.safetensors or the model.zip that `python -m agents.train` wrote"


@dataclass(frozen=True, kw_only=True)
class PolicyFacts:
    """How a policy drives.

    Attributes:
        action, observation: modes that it was trained in.
        prior: scripted planner that it corrects; None: it acts alone.
        comfort: whether the comfort limiter has the last word.
        layers: widths of the hidden layers behind the features.
        grouped: whether class maps are read by the `GroupMapExtractor`; policies of before read single classes.
        standard: whether vectors are standardised by the `StandardExtractor`.
        learner: what trained it, one of `LEARNERS`; it decides the network.
        normalised: whether it sees observations through a `Normaliser`.
    """

    action: str
    observation: str
    prior: str | None = None
    comfort: bool = False
    layers: tuple[int, ...] = (64,)
    grouped: bool = False
    standard: bool = False
    learner: str = "ppo"
    normalised: bool = False

    @staticmethod
    def of(values: Any, source: str) -> PolicyFacts:
        """From JSON values.

        Raises:
            CheckpointError: other names, or values of other types.
        """
        try:
            facts = PolicyFacts(**{**values, "layers": tuple(int(n) for n in values.get("layers", (64,)))})
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{source} says {values!r}", "the facts of a policy", REMEDY) from error
        names = all(isinstance(value, str) for value in (facts.action, facts.observation, facts.prior or ""))
        switches = (facts.comfort, facts.grouped, facts.standard, facts.normalised)
        flags = all(isinstance(value, bool) for value in switches)
        sizes = all(0 < n <= LARGEST_LAYER for n in facts.layers)
        if not (names and flags and sizes and facts.learner in LEARNERS):
            raise CheckpointError(f"{source} says {values!r}", "the facts of a policy", REMEDY)
        return facts


def make_policy(
    facts: PolicyFacts,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    learning_rate: float = 3e-4,
) -> Any:
    """A policy network with new weights: what learners train, and what imitation trains without them."""
    kind: Any = policy_class(facts.learner, observation_space)
    return kind(observation_space, action_space, lambda _: learning_rate, **policy_keywords(facts, observation_space))


def policy_keywords(facts: PolicyFacts, observation_space: spaces.Space[Any]) -> dict[str, Any]:
    """How stable-baselines3 makes the network."""
    extractor = extractor_for(facts.observation, observation_space, grouped=facts.grouped, standard=facts.standard)
    shared = {"features_extractor_class": FlattenExtractor if facts.normalised else extractor}
    if facts.learner in OFF_POLICY:
        return {**shared, "net_arch": list(facts.layers)}
    lstm = {"lstm_hidden_size": LSTM_WIDTH} if facts.learner == RECURRENT else {}
    return {**shared, "net_arch": list(facts.layers), "log_std_init": -0.7, **lstm}


def save_policy(path: Path, policy: BasePolicy, facts: PolicyFacts, normaliser: Normaliser | None = None) -> None:
    """Write weights and facts, atomically; of learners with a replay memory the actor alone, which drives.

    Raises:
        OutputError: the file cannot be written.
    """
    own = {name: value for name, value in policy.state_dict().items() if _drives(name, facts)}
    weights = {name: value.detach().cpu().contiguous() for name, value in own.items()}
    if normaliser is not None:
        weights |= normaliser.tensors()
    with atomic_write(path) as stream:
        stream.write(serialize(weights, {"format": FORMAT, "facts": json.dumps(asdict(facts))}))


def _drives(name: str, facts: PolicyFacts) -> bool:
    """Whether a weight of this name is part of the file."""
    return name.startswith("actor.") if facts.learner in OFF_POLICY else not name.startswith(SHARED)


def read_facts(path: Path) -> PolicyFacts:
    """How the policy of a file drives.

    Raises:
        CheckpointError: the file is missing, damaged, or something else.
    """
    return PolicyFacts.of(_opened(path)[0], str(path))


def load_policy(
    path: Path, facts: PolicyFacts, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> tuple[Any, Normaliser | None]:
    """The policy of a file, for spaces that fit, and how its observations are normalised.

    Raises:
        CheckpointError: the file is missing or damaged, or its weights are for other spaces.
        OptionError: its learner is of sb3-contrib, which is not installed.
    """
    weights: dict[str, Tensor] = _opened(path)[1]
    named = {name: weights.pop(name) for name in (MEAN, VARIANCE) if name in weights}
    normaliser = Normaliser.of({name: value.numpy() for name, value in named.items()}) if len(named) == 2 else None
    try:
        policy = make_policy(facts, observation_space, action_space)
        missing, unexpected = policy.load_state_dict(weights, strict=False)
        if unexpected or any(_drives(name, facts) for name in missing):
            raise RuntimeError(f"missing {missing}, unexpected {unexpected}")
        sizes = {value.shape for value in named.values()}
        if facts.normalised != (normaliser is not None) or (facts.normalised and sizes != {observation_space.shape}):
            raise RuntimeError(f"normaliser of {sizes}")
    except (RuntimeError, AssertionError) as error:  # stable-baselines3 asserts what kind of actions there are
        raise CheckpointError(
            f"{path} does not fit observation={facts.observation!r}, action={facts.action!r} in this world ({error})",
            "weights of the same sizes",
            "choose the world and the modes that it was trained with",
        ) from error
    policy.set_training_mode(False)
    return policy, normaliser


def _opened(path: Path) -> tuple[Any, dict[str, Any]]:
    if not path.is_file():
        raise CheckpointError(f"no policy at {path}", "a policy file", REMEDY)
    try:
        with safe_open(str(path), "pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") != FORMAT:
                raise CheckpointError(f"{path} has the format {meta.get('format')!r}", FORMAT, REMEDY)
            return json.loads(meta["facts"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read ({error})", "a policy file", REMEDY) from error
