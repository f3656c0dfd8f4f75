"""The engine: state in, state out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from same import equal
from small_worlds import TINY
from street import SMALL, street, street_clips

from ii_world_env.engine import CAUSES, Engine, EngineConfig, State, StepResult
from ii_world_env.observations import modes as observations
from ii_world_env.scenes import PAST, open_scenes
from world_model.core.errors import ActionError, ConfigError, OptionError
from world_model.core.geometry import se2_matrix
from world_model.core.grid import VoxelGrid
from world_model.data.clips import Clips, load_clips
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster import tiny as tiny_forecaster
from world_model.models.geometric import GeometricForecaster
from world_model.models.geometric import tiny as tiny_geometric_config
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer
from world_model.worlds import ReplayWorld, TransportWorld, World
from world_model.worlds.geometric import GeometricWorld
from world_model.worlds.simulated import SimulatedWorld
from world_model.worlds.token import TokenWorld
from world_model.worlds.traffic import TrafficConfig


def engine(horizon: int = 8, action: str = "kinematic", **options: object) -> Engine:
    return Engine(TransportWorld(SMALL), EngineConfig(horizon=horizon, action=action), **options)  # type: ignore[arg-type]


def drive(
    runner: Engine, state: State, pull: float = 0.0, steer: float = 0.0, steps: int = 40
) -> tuple[State, list[StepResult]]:
    """One action again and again until the first environment ends."""
    outs = []
    action = torch.tensor([[pull, steer]]).repeat(state.batch, 1)
    for _ in range(steps):
        state, out = runner.step(state, action)
        outs.append(out)
        if out.cause[0]:
            break
    return state, outs


def cause(out: StepResult) -> str:
    return CAUSES[int(out.cause[0])]


def test_driving_straight_arrives() -> None:
    state, outs = drive(engine(), engine().reset(street_clips(SMALL)))
    assert cause(outs[-1]) == "destination" and bool(outs[-1].terminated[0]) and not bool(outs[-1].truncated[0])
    assert state.pose[0].tolist() == pytest.approx([24.0, 0.0, 0.0], abs=1e-3)
    paid = sum(out.terms["progress"].item() for out in outs)
    assert paid == pytest.approx(10.0, abs=1e-3), "the whole route is paid in parts"


def test_a_car_in_the_way_is_hit_and_was_foreseen() -> None:
    runner = engine()
    _, outs = drive(runner, runner.reset(street_clips(SMALL, cars_x_m=(15.0,))))
    assert cause(outs[-1]) == "collision" and bool(outs[-1].terminated[0])
    assert outs[-1].terms["collision"].item() == -10
    assert outs[0].outcome.time_to_collision_s.item() == math.inf
    assert outs[-2].outcome.time_to_collision_s.item() < 1.0


def test_nothing_is_tunnelled_through() -> None:
    """At full speed the ego covers ten metres a step; a thin wall in between still stops the episode."""
    runner, clips = engine(horizon=30), street_clips(SMALL, speed_mps=19.9)
    for at in (62, 69, 76):
        labels = clips.occupancy.clone()
        labels[:, -1, at : at + 2, :, 3:6] = 15
        _, outs = drive(runner, runner.reset(Clips(**{**vars(clips), "occupancy": labels})))
        assert cause(outs[-1]) == "collision", at


def test_steering_off_the_road_ends_there() -> None:
    runner = engine()
    _, outs = drive(runner, runner.reset(street_clips(SMALL)), steer=0.3)
    assert cause(outs[-1]) == "off_road" and bool(outs[-1].terminated[0])


def test_braking_lasts_until_the_horizon() -> None:
    runner = engine(horizon=6)
    state, outs = drive(runner, runner.reset(street_clips(SMALL)), pull=-1.0)
    assert cause(outs[-1]) == "horizon" and len(outs) == 6
    assert bool(outs[-1].truncated[0]) and not bool(outs[-1].terminated[0])
    assert state.speed_mps.item() == 0


def test_the_end_of_the_recording_is_named() -> None:
    clips = street_clips(SMALL, future=12)
    valid = clips.valid.clone()
    valid[:, 4 + 1 + 3 :] = False
    runner = engine(horizon=10)
    _, outs = drive(runner, runner.reset(Clips(**{**vars(clips), "valid": valid})), pull=-1.0)
    assert cause(outs[-1]) == "route_end" and len(outs) == 3


def test_distrust_ends_the_episode() -> None:
    trust = iter((0.9, 0.9, 0.1))
    runner = Engine(
        TransportWorld(SMALL), EngineConfig(horizon=8, least_trust=0.5), trust=lambda _: torch.tensor([next(trust)])
    )
    _, outs = drive(runner, runner.reset(street_clips(SMALL)))
    assert cause(outs[-1]) == "untrusted" and len(outs) == 3 and bool(outs[-1].truncated[0])


def test_a_standing_ego_is_not_at_fault() -> None:
    clips = street_clips(SMALL, speed_mps=0.0, cars_x_m=(5.3,))
    later = clips.future_occupancy
    assert later is not None
    later[:, 2:] = torch.from_numpy(street(SMALL, 0.0, (3.9,)))
    runner = Engine(ReplayWorld(SMALL), EngineConfig(horizon=5))
    _, outs = drive(runner, runner.reset(clips))
    assert cause(outs[-1]) == "horizon", "the other car drove into the ego, which stood"


def test_a_standing_log_has_no_destination() -> None:
    runner = engine(horizon=4)
    _, outs = drive(runner, runner.reset(street_clips(SMALL, speed_mps=0.0)))
    assert cause(outs[-1]) == "horizon"
    assert sum(out.reward.item() for out in outs) == pytest.approx(0.0, abs=1e-5)


def test_recorded_motion_is_where_an_episode_starts_unless_told_otherwise() -> None:
    runner, clips = engine(), street_clips(SMALL, batch=2)
    assert runner.reset(clips).speed_mps.tolist() == pytest.approx([6.0, 6.0])
    state = runner.reset(clips, torch.tensor([3.0, math.nan]), torch.tensor([1, -1]))
    assert state.speed_mps.tolist() == pytest.approx([3.0, 6.0])
    assert state.commands[0].unique().tolist() == [1] and state.commands[1].unique().tolist() == [2]


def test_terms_sum_to_the_reward() -> None:
    runner, generator = engine(), torch.Generator().manual_seed(0)
    state = runner.reset(street_clips(SMALL, batch=4, cars_x_m=(20.0,)))
    for _ in range(6):
        state, out = runner.step(state, torch.rand(4, 2, generator=generator) * 2 - 1)
        assert torch.allclose(out.reward, torch.stack(list(out.terms.values())).sum(0))
        assert not bool((out.terminated & out.truncated).any())


def tiny_geometric() -> World:
    torch.manual_seed(0)
    model = GeometricForecaster(tiny_geometric_config(TINY)).requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn_like(parameter)  # as they begin, its gates are open: it would be the ego warp
    return GeometricWorld(model)


def tiny_tokens() -> World:
    torch.manual_seed(0)
    return TokenWorld(Tokenizer(tiny_tokenizer(TINY)), Forecaster(tiny_forecaster(tiny_tokenizer(TINY))))


def simulated_start(world: SimulatedWorld) -> State:
    """Three different moments of the bundled synthetic scenes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scenes = open_scenes(horizon=6)
    starts = [scenes.starts[i] for i in (0, 1, 2)]
    runner = Engine(world, EngineConfig(horizon=6))
    clips = load_clips(scenes.index, starts, PAST, runner.frames_ahead)
    return runner.reset(clips, seed=torch.tensor([1, 2, 3]), action_noise=torch.tensor([0.0, 0.1, 0.2]))


@pytest.fixture(scope="module", params=["transport", "replay", "ii-world", "geometric", "simulated"])
def started(request: pytest.FixtureRequest) -> tuple[Engine, State]:
    """An engine in every kind of world, and three environments that differ."""
    worlds: dict[str, Callable[[], World]] = {
        "transport": lambda: TransportWorld(TINY),
        "replay": lambda: ReplayWorld(TINY),
        "ii-world": tiny_tokens,
        "geometric": tiny_geometric,
    }
    if request.param == "simulated":
        world: World = SimulatedWorld()
        return Engine(world, EngineConfig(horizon=6)), simulated_start(world)
    world = worlds[request.param]()
    runner = Engine(world, EngineConfig(horizon=6))
    noise, seed = torch.tensor([0.0, 0.1, 0.2]), torch.tensor([1, 2, 3])
    clips = street_clips(TINY, speed_mps=2.0, batch=3)
    return runner, runner.reset(clips, torch.tensor([1.0, 2.0, 5.0]), action_noise=noise, seed=seed)


ACTIONS = torch.tensor([[[0.5, 0.0], [-0.5, 0.3], [0.2, -0.2]], [[0.1, 0.2], [0.3, -0.4], [-0.9, 0.1]]])


class TestEveryWorld:
    def test_restoring_reproduces_to_the_bit(self, started: tuple[Engine, State], tmp_path: Path) -> None:
        """A kept state, a copy, one from a file and one from a pickle all go on the same way."""
        runner, state = started
        state, _ = runner.step(state, ACTIONS[1])
        copy = state.clone()
        state.save(tmp_path / "state.safetensors")
        torch.save(state, tmp_path / "state.pt")
        loaded = State.load(tmp_path / "state.safetensors", like=state.index(0))
        pickled = torch.load(tmp_path / "state.pt", weights_only=False)
        assert equal(loaded, state) and equal(pickled, state)
        ends = []
        for begin in (state, copy, loaded, pickled):
            for actions in ACTIONS:
                begin, out = runner.step(begin, actions)
            ends.append((begin, out))
        assert all(equal(end, ends[0]) for end in ends[1:])
        assert equal(state, copy), "stepping leaves a state as it was"

    def test_a_batch_equals_its_singles(self, started: tuple[Engine, State]) -> None:
        runner, state = started
        both, out = runner.step(state, ACTIONS[0])
        for i in range(3):
            one, single = runner.step(state.index(i), ACTIONS[0][i : i + 1])
            assert torch.allclose(one.pose[0], both.pose[i], atol=1e-6)
            assert (one.labels[0] != both.labels[i]).float().mean() <= 1e-3
            assert single.reward.item() == pytest.approx(out.reward[i].item(), abs=1e-4)
            assert single.cause.item() == out.cause[i].item()

    def test_results_do_not_depend_on_the_place_in_the_batch(self, started: tuple[Engine, State]) -> None:
        """The noise on the actions included: it comes from the environment's own seed."""
        runner, state = started
        order = [2, 0, 1]
        straight, _ = runner.step(state, ACTIONS[0])
        turned, _ = runner.step(state.index(order), ACTIONS[0][order])
        assert torch.allclose(straight.pose[order], turned.pose, atol=1e-6)
        assert (straight.labels[order] != turned.labels).float().mean() <= 1e-3

    def test_expand_repeats_and_put_replaces(self, started: tuple[Engine, State]) -> None:
        runner, state = started
        after, _ = runner.step(state, ACTIONS[0])
        mixed = state.put([2, 0], after.index([2, 0]))
        assert equal(mixed.index(0), after.index(0)) and equal(mixed.index(2), after.index(2))
        assert equal(mixed.index(1), state.index(1)) and mixed.batch == 3
        many = state.expand(2)
        assert many.batch == 6 and equal(many.index([0, 2, 4]), state) and equal(many.index([1, 3, 5]), state)
        next_mixed, _ = runner.step(mixed, ACTIONS[0])
        assert next_mixed.steps.tolist() == [2, 1, 2]

    def test_rollout_is_the_steps_one_by_one(self, started: tuple[Engine, State]) -> None:
        runner, state = started
        state = state.index(0).expand(2)
        plan = torch.tensor([[[0.2, 0.0]] * 7, [[0.0, 0.3]] * 7])
        result = runner.rollout(state, plan)
        alive = torch.ones(2, dtype=torch.bool)
        for step in range(7):
            state, out = runner.step(state, plan[:, step])
            assert torch.equal(result.alive[:, step], alive)
            assert torch.equal(result.reward[:, step], torch.where(alive, out.reward, torch.zeros(2)))
            alive &= out.cause == 0
        assert not bool(alive.any()) and bool((result.cause > 0).all()), "the horizon is shorter than the plan"
        assert torch.equal(result.total, result.reward.sum(1))
        assert torch.equal(result.cause, result.state.cause)
        assert not runner.rollout(result.state, plan).reward.any(), "nothing is earned after the end"


def test_observations_are_batched() -> None:
    runner = engine()
    state = runner.reset(street_clips(SMALL, batch=3))
    assert observations.bev(state.labels, SMALL).shape == (3, 50, 50)
    assert observations.ego(state).shape == (3, 6)
    route = observations.route(state).view(3, -1, 2)
    assert (
        torch.allclose(route[0, :, 0], torch.arange(1, 9) * 4.0, atol=1e-3) and float(route[..., 1].abs().max()) < 1e-3
    )


@pytest.mark.parametrize(
    "actions",
    [
        torch.zeros(2),
        torch.zeros(1, 3),
        torch.zeros(2, 2),
        torch.tensor([[math.nan, 0.0]]),
        torch.tensor([[0.0, math.inf]]),
        [[0, 0]],
    ],
)
def test_bad_actions_are_named(actions: torch.Tensor) -> None:
    runner = engine()
    state = runner.reset(street_clips(SMALL))
    with pytest.raises(ActionError, match="Expected"):
        runner.step(state, actions)


def test_actions_beyond_their_bounds_are_clipped() -> None:
    runner = engine()
    state = runner.reset(street_clips(SMALL))
    far, _ = runner.step(state, torch.tensor([[50.0, -3.0]]))
    near, _ = runner.step(state, torch.tensor([[1.0, -1.0]]))
    assert torch.equal(far.pose, near.pose)


@pytest.mark.parametrize(
    ("field", "value"), [("action", "joystick"), ("horizon", 0), ("horizon", 2.5), ("horizon", True)]
)
def test_bad_configurations_are_named(field: str, value: object) -> None:
    with pytest.raises((OptionError, ConfigError), match=field):
        EngineConfig(**{field: value})


def test_start_frame_ground_is_gathered_over_the_observed_frames() -> None:
    """Ground that only an earlier frame saw is known, at its place in the start frame."""
    clips = street_clips(SMALL, speed_mps=6.0)
    labels = clips.occupancy.clone()
    labels[:, 1:] = 17
    runner = engine()
    ground = runner.reset(Clips(**{**vars(clips), "occupancy": labels})).ground[0]
    # The first frame stood 12 m behind: its view reaches from x = -32 m to 8 m in the start frame.
    assert ground[60, 50] == 1 and ground[60, 68] == -1 and ground[75, 50] == 0
    turned = Clips(**{**vars(clips), "occupancy": labels, "ego_to_global": _turned(clips)})
    assert ground.shape == runner.reset(turned).ground[0].shape


def _turned(clips: Clips) -> torch.Tensor:
    turn = se2_matrix(*(torch.tensor(v, dtype=torch.float64) for v in (5.0, -3.0, 1.2)))
    return turn @ clips.ego_to_global


EVEN = VoxelGrid(shape=(96, 96, 16), lower_m=(-19.2, -19.2, -1.0))
"""A grid whose bird's-eye map can be halved twice."""


def test_agents_come_from_worlds_that_track_them() -> None:
    clips = street_clips(EVEN, batch=2)
    transport = Engine(TransportWorld(EVEN))
    with pytest.raises(OptionError, match="TransportWorld"):
        transport.agents(transport.reset(clips))
    geometric = Engine(GeometricWorld(GeometricForecaster(tiny_geometric_config(EVEN))))
    assert geometric.agents(geometric.reset(clips)).x.shape == (2, 32)


def test_a_seed_draws_the_traffic() -> None:
    clips, model = street_clips(EVEN, batch=2), GeometricForecaster(tiny_geometric_config(EVEN))
    engine = Engine(GeometricWorld(model, traffic=TrafficConfig(traffic="sampled")))
    states = [engine.reset(clips, seed=torch.tensor(seeds)) for seeds in ([1, 2], [1, 3])]
    one, other = (state.world.agents.styles.headway_s for state in states)
    assert torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])


def test_a_batch_may_mix_futures() -> None:
    clips, model = street_clips(EVEN, batch=3), GeometricForecaster(tiny_geometric_config(EVEN))
    sampled, log_like, rigid = (
        Engine(GeometricWorld(model, traffic=TrafficConfig(traffic=name))) for name in ("sampled", "log-like", "rigid")
    )
    same, plain = torch.tensor([1, 1, 1]), log_like.reset(clips).world.agents.styles.headway_s
    mixed = log_like.reset(clips, seed=same, future=["mode", "sample", None]).world.agents.styles.headway_s
    drawn = sampled.reset(clips, seed=same, future=["mode", "sample", None]).world.agents.styles.headway_s
    assert torch.equal(mixed[0], plain[0]) and torch.equal(mixed[2], plain[2])
    assert torch.equal(drawn[0], plain[0]) and torch.equal(drawn[1], mixed[1]) and torch.equal(drawn[1], drawn[2])
    assert not torch.equal(drawn[1], plain[1])
    with pytest.raises(OptionError, match="one future"):
        rigid.reset(clips, future=["sample", None, None])
    with pytest.raises(OptionError, match="TransportWorld"):
        Engine(TransportWorld(EVEN)).reset(clips, future=["mode"] * 3)
    with pytest.raises(OptionError, match="TransportWorld"):
        Engine(TransportWorld(EVEN)).reset(clips, event=["cut-in"] * 3)


def test_a_world_begins_anew_where_the_car_of_another_engine_is() -> None:
    """The plan of a world that stands still knows what has moved in the world that is driven in."""
    driven, planned = Engine(TransportWorld(SMALL), EngineConfig()), Engine(TransportWorld(SMALL), EngineConfig())
    state, _ = driven.step(driven.reset(street_clips(SMALL)), torch.zeros(1, 2))
    car = torch.from_numpy(street(SMALL, 3.0, (3.0 + 9.0,)))[None]
    seen = planned.observe(state, car[:, None], state.pose[:, None])
    assert torch.equal(planned.occupancy(seen), car) and not torch.equal(planned.occupancy(state), car)
    assert torch.equal(seen.pose, state.pose) and torch.equal(seen.progress_m, state.progress_m)
    plans = torch.zeros(1, 4, 2)
    assert planned.rollout(seen, plans).cause.item() == CAUSES.index("collision")
    assert driven.rollout(state, plans).cause.item() != CAUSES.index("collision")
    again = planned.observe(seen, car[:, None], state.pose[:, None])
    assert torch.equal(planned.rollout(again, plans).reward, planned.rollout(seen, plans).reward)
