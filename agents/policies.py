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
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy

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
    """

    action: str
    observation: str
    prior: str | None = None
    comfort: bool = False
    layers: tuple[int, ...] = (64,)
    grouped: bool = False
    standard: bool = False

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
        flags = all(isinstance(value, bool) for value in (facts.comfort, facts.grouped, facts.standard))
        if not names or not flags or not all(0 < n <= LARGEST_LAYER for n in facts.layers):
            raise CheckpointError(f"{source} says {values!r}", "the facts of a policy", REMEDY)
        return facts


def make_policy(
    facts: PolicyFacts,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    learning_rate: float = 3e-4,
) -> ActorCriticPolicy:
    """A policy network with new weights: what PPO trains, and what imitation learners train without it."""
    kind: Any = MultiInputActorCriticPolicy if isinstance(observation_space, spaces.Dict) else ActorCriticPolicy
    policy: ActorCriticPolicy = kind(
        observation_space, action_space, lambda _: learning_rate, **policy_keywords(facts, observation_space)
    )
    return policy


def policy_keywords(facts: PolicyFacts, observation_space: spaces.Space[Any]) -> dict[str, Any]:
    """How stable-baselines3 makes the network."""
    return {
        "features_extractor_class": extractor_for(
            facts.observation, observation_space, grouped=facts.grouped, standard=facts.standard
        ),
        "net_arch": list(facts.layers),
        "log_std_init": -0.7,
    }


def save_policy(path: Path, policy: ActorCriticPolicy, facts: PolicyFacts) -> None:
    """Write weights and facts, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    own = {name: value for name, value in policy.state_dict().items() if not name.startswith(SHARED)}
    weights = {name: value.detach().cpu().contiguous() for name, value in own.items()}
    with atomic_write(path) as stream:
        stream.write(serialize(weights, {"format": FORMAT, "facts": json.dumps(asdict(facts))}))


def read_facts(path: Path) -> PolicyFacts:
    """How the policy of a file drives.

    Raises:
        CheckpointError: the file is missing, damaged, or something else.
    """
    return PolicyFacts.of(_opened(path)[0], str(path))


def load_policy(
    path: Path, facts: PolicyFacts, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> ActorCriticPolicy:
    """The policy of a file, for spaces that fit.

    Raises:
        CheckpointError: the file is missing or damaged, or its weights are for other spaces.
    """
    policy = make_policy(facts, observation_space, action_space)
    try:
        missing, unexpected = policy.load_state_dict(_opened(path)[1], strict=False)
        if unexpected or not all(name.startswith(SHARED) for name in missing):
            raise RuntimeError(f"missing {missing}, unexpected {unexpected}")
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit observation={facts.observation!r}, action={facts.action!r} in this world ({error})",
            "weights of the same sizes",
            "choose the world and the modes that it was trained with",
        ) from error
    policy.set_training_mode(False)
    return policy


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
