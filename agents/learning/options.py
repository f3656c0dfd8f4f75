"""Options of `python -m agents.train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.learning.learners import OFF_POLICY, LearnerName
from agents.learning.normalise import Normalise
from agents.policies import PolicyFacts
from ii_world_env.faces.options import DriveOptions
from world_model.core.errors import OptionError
from world_model.training.report_options import ReportOptions


@dataclass(frozen=True, kw_only=True)
class Train(ReportOptions, DriveOptions):
    """Train a driving policy inside a world; stop it whenever you like and go on with --resume.

    Try:
      python -m agents.train --timesteps 20000
      python -m agents.train --world transport --timesteps 50000 --out outputs/ppo_transport
      python -m agents.train --timesteps 100000 --resume
      python -m agents.train --prior idm --reward pdms --observation state --out outputs/residual
      python -m agents.train --learner sac --observation traffic --worlds transport geometric --out outputs/sac
      python -m agents.evaluate --planners idm ppo:outputs/ppo/model.zip
    """

    learner: LearnerName = "ppo"
    """ppo; recurrent_ppo (with a memory); sac or tqc, which learn from a replay memory and need actions that are
    numbers. recurrent_ppo and tqc need the extra `contrib`."""
    worlds: tuple[str, ...] = ()
    """A curriculum: train in these worlds one after the other, instead of --world."""
    stage: int | None = None
    """Environment steps in each world of --worlds but the last. If not given: equal parts of --timesteps."""
    timesteps: int = 20_000
    """Environment steps in all, those before a --resume included."""
    num_envs: int = 4
    """Environments side by side, as one batch: one forward of the world model serves them all."""
    kept_mib: float = 512.0
    """Memory for start states that come again, MiB; 0 makes each of them anew, to the same numbers."""
    split: str | None = None
    """Which scenes to train in: train, val or all. If not given: train, or all of the bundled demo scenes."""
    starts_per_scene: int | None = None
    """Begin only at so many evenly spread frames of each scene, so that kept starts come again soon; None: at all."""
    observation: str = "bev"
    """bev, occupancy, state, traffic, traffic_timed, tokens (only in the world ii-world), or package.module:Class."""
    rollout: int | None = None
    """Steps of every environment between two updates. If not given: 128; of sac and tqc 8, with a gradient step for
    each environment step."""
    minibatch: int = 128
    """Steps in one gradient step."""
    epochs: int = 4
    """Passes over the collected steps at each update (ppo, recurrent_ppo)."""
    buffer: int = 100_000
    """Steps in the replay memory (sac, tqc)."""
    warmup: int = 1_000
    """Environment steps with random actions before the first update (sac, tqc)."""
    learning_rate: float = 3e-4
    """Of Adam."""
    normalise: Normalise = "none"
    """Running means and variances: of rewards (reward), and also of observations that are a vector (all)."""
    prior: str | None = None
    """Scripted planner whose actions the policy corrects within bounds, e.g. idm; None: it acts alone."""
    comfort: bool = False
    """With a prior: let the comfort limiter have the last word."""
    pessimism: float = 0.0
    """What a step without any forecast trust costs; only in worlds that have a trust."""
    finite_horizon: bool = False
    """Nothing lies beyond the horizon; with observation traffic_timed."""
    standard: bool = False
    """Standardise vector observations by those of a first drive without corrections."""
    layers: tuple[int, ...] = (64,)
    """Widths of the hidden layers behind the features."""
    gamma: float = 0.97
    """Discount per step of 0.5 s."""
    seed: int = 0
    """Of policy, scenes and action noise; of a resumed run together with the steps done before it."""
    save_every: int = 5_000
    """Environment steps between two saved models."""
    out: Path = Path("outputs/ppo")
    """Folder for model.zip, policy.safetensors, the tables, curve.png and config.json."""
    resume: bool = False
    """Go on from the model in --out."""

    def __post_init__(self) -> None:
        counts = (
            "timesteps",
            "num_envs",
            "horizon",
            "starts_per_scene",
            "rollout",
            "minibatch",
            "epochs",
            "save_every",
        )
        self.check_counts(*counts, "stage", "buffer", "warmup")
        if self.comfort and self.prior is None:
            raise OptionError("--comfort without --prior", "a prior, such as idm", "add --prior idm")
        if self.learner in OFF_POLICY and self.action in ("meta", "command"):
            raise OptionError(
                f"--learner {self.learner} with --action {self.action}, which is a choice",
                "kinematic, delta or waypoints",
                "choose one of these, or --learner ppo",
            )
        if self.standard and self.normalise == "all":
            raise OptionError("--standard with --normalise all", "one of them", "take --normalise reward")
        if self.stage is not None and not self.worlds:
            raise OptionError("--stage without --worlds", "the worlds of a curriculum", "add --worlds")

    def facts(self) -> PolicyFacts:
        """How the policy drives."""
        names = ("action", "observation", "prior", "comfort", "layers", "learner", "standard")
        chosen = {name: getattr(self, name) for name in names}
        return PolicyFacts(**chosen, grouped=True, normalised=self.normalise == "all")

    @property
    def steps_between(self) -> int:
        """Steps of every environment between two updates."""
        return self.rollout or (8 if self.learner in OFF_POLICY else 128)

    @property
    def stages(self) -> list[tuple[str, int]]:
        """The worlds, and the environment steps at which each ends."""
        worlds = self.worlds or (self.world,)
        part = self.stage or -(-self.timesteps // len(worlds))
        ends = [min(part * n, self.timesteps) for n in range(1, len(worlds))]
        return list(zip(worlds, [*ends, self.timesteps], strict=True))
