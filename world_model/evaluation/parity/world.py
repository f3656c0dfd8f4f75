"""The forecaster against golden files: rollouts in both control modes with streaming state, and training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.geometry import pose_matrix
from world_model.evaluation.parity.comparison import Comparison
from world_model.evaluation.parity.recorded import Call, recorded
from world_model.evaluation.parity.sizes import fill, for_map, forecaster_config
from world_model.models.forecaster import Forecast, Forecaster, ForecastState
from world_model.models.forecaster.ego import EgoState, curr_to_next
from world_model.models.forecaster.motion import commands_from_one_hot
from world_model.models.forecaster.objective import Future, RolloutLosses, observe_first, published_rollout
from world_model.models.forecaster.training import ForecasterLossConfig
from world_model.models.tokenizer import Tokenizer

MODES = ("generate", "high-level-control")


class WorldComparison:
    """A ``world_*.npz`` with the model and the tokens that it belongs to.

    Args:
        check: of the file.
        weights: state dict of the forecaster.
        tokens: (B, 1 or 1+K, C, Xl, Yl) the current token, and the targets where the file trains.
        tokenizer: decodes forecasts, where the file holds decoded ones.
    """

    def __init__(
        self, check: Comparison, weights: Mapping[str, Tensor], tokens: Tensor, tokenizer: Tokenizer | None = None
    ) -> None:
        size = (int(tokens.shape[-2]), int(tokens.shape[-1]))
        self.check, self.file, self.tokenizer = check, check.file, tokenizer
        self.tokens = tokens.to(check.dtype)
        self.weights = for_map(weights, size)
        self.names = [n for n in weights if "running_" not in n and "num_batches" not in n]
        if "train.param_names" in self.file:
            self.names = self.file.strings("train.param_names")
        self.model = Forecaster(forecaster_config(weights, size))
        # Several samples at once were measured with the speed of the whole batch (deviation 5).
        self.couple = len(tokens) > 1
        self.reset()

    def reset(self) -> None:
        """The stored weights, in evaluation mode."""
        fill(self.model, self.weights)
        self.model.to(self.check.dtype).eval().zero_grad()

    def future(self, prefix: str) -> tuple[Future, Tensor]:
        """The inputs of one call, and its start flags."""

        def read(name: str) -> Tensor:
            return self.file.tensor(f"{prefix}.{name}")

        features = read("gt_ego_lcf_feat")
        batch, steps = features.shape[:2]
        if batch != len(self.tokens):
            raise DataError(f"{self.file.path}: {prefix} of {batch} samples", f"{len(self.tokens)} samples", "")
        targets = self.tokens[:, 1:]
        future = Future(
            # Rollouts that are not scored need no targets.
            tokens=targets if targets.shape[1] else self.tokens[:, :1].expand(-1, steps, -1, -1, -1),
            position=read("ego_to_global_translation").double(),
            rotation=read("ego_to_global_rotation").double(),
            features=features.double(),
            command=commands_from_one_hot(read("gt_ego_fut_cmd")),
            curr_to_next=read("curr_to_future_ego_rt").to(self.check.dtype),
            valid=read("valid_frame").bool(),
        )
        poses = pose_matrix(future.position, future.rotation)
        self.check.close("poses of the inputs", "pose", {f"{prefix}.curr_ego_to_global": poses})
        return future, read("start_of_sequence").bool()

    def begin(self, ego: EgoState, future: Future, start: Tensor) -> ForecastState:
        """The state at the start of a call."""
        return self.model.resume(self.tokens[:, 0], ego, future.position[:, 0], future.rotation[:, 0], start)

    def unobserved(self) -> EgoState:
        """Streaming state without any observation."""
        return EgoState.initial(len(self.tokens), self.model.config.history)

    def next(self, state: ForecastState, forecast: Forecast) -> ForecastState:
        """The state after a step along the predicted motion."""
        assert forecast.predicted_ego is not None
        return self.model.advance_published(state, forecast.token, *forecast.predicted_ego)


def verify_world(world: WorldComparison) -> None:
    """Compare every array of a ``world_*.npz``."""
    for mode in MODES:
        verify_calls(world, mode)
    with torch.no_grad():
        if world.file.matches(r"bs1\."):
            _singles(world)
        if world.file.matches(r"layer\."):
            _layers(world)
        for rate in world.file.numbers(r"train\.rate([\d.]+?)\.c\d"):
            _training_losses(world, rate)
    for rate in world.file.numbers(r"trainmode\.rate([\d.]+?)\.[a-z]"):
        _training_step(world, rate)


@torch.no_grad()
def verify_calls(world: WorldComparison, mode: str) -> None:
    """Compare the consecutive calls of one control mode."""
    ego = world.unobserved()
    for k in sorted(map(int, world.file.numbers(r"s(\d+)\.meta\."))):
        ego = _call(world, k, mode, ego)


def _call(world: WorldComparison, k: int, mode: str, ego: EgoState) -> EgoState:
    """One call of a control mode: a rollout, compared step by step; returns the state for the next call."""
    check, prefix = world.check, f"s{k}.{mode}."
    future, start = world.future(f"s{k}.meta")
    state = world.begin(ego, future, start)
    found: dict[str, list[Tensor]] = {}
    for step in range(future.features.shape[1]):
        command = future.command[:, step]
        given = future.curr_to_next[:, step] if mode == "generate" else None
        before = _before(world, state, command)
        forecast = world.model.predict(state, command, given, couple_batch=world.couple)
        for name, value in {**before, **_predicted(state, forecast)}.items():
            found.setdefault(name, []).append(value)
        state = world.next(state, forecast)
        _decoded(world, f"{prefix}step{step}_", forecast.token)
    _latents(world, prefix, torch.stack(found.pop("pred_latent"), 1), f"{mode}: forecast tokens")
    for name, values in found.items():
        kind = "forecast" if name == "plan_query" else "pose"
        check.close(f"{mode}: {name}", kind, {prefix + name: torch.stack(values, 1)})
    # The stored transforms are those of the inputs; under high-level control, step 0's over and over, and unused.
    used = future.curr_to_next if mode == "generate" else future.curr_to_next[:, :1].expand_as(future.curr_to_next)
    transforms = {"curr_to_future_ego_rt": used, "targ_curr_to_futu_info": _twelve(used)}
    check.close(f"{mode}: given transforms", "pose", {prefix + name: value for name, value in transforms.items()})
    ego = observe_first(state, future)
    after = {
        "observe_delta_translation": ego.observed[..., :2],
        "observe_relative_rotation": ego.observed[..., 2:6],
        "observe_ego_lcf_feat": ego.observed[..., 6:],
        "ego_yaw_prev": ego.last_yaw,
        "ego_pos_prev": ego.last_position,
    }
    check.close(f"{mode}: state after the call", "pose", {f"{prefix}{n}_after": value for n, value in after.items()})
    return ego


def _before(world: WorldComparison, state: ForecastState, command: Tensor) -> dict[str, Tensor]:
    """What a step starts from."""
    ego = state.ego
    assert ego is not None
    obeyed, _ = ego.obey(command)
    return {
        "plan_query": world.model.pose_encoder(state.motions),
        "history_delta_translation": state.motions[..., :2],
        "history_relative_rotation": state.motions[..., 2:6],
        "history_ego_lcf_feat": state.motions[..., 6:],
        "curr_translation": ego.position,
        "curr_rotation": ego.rotation,
        "curr_ego_to_global": ego.pose,
        "curr_ego_mode": F.one_hot(obeyed, 3),
    }


def _predicted(state: ForecastState, forecast: Forecast) -> dict[str, Tensor]:
    """What a step predicts."""
    assert state.ego is not None and forecast.predicted_ego is not None
    following, slot = forecast.predicted_ego
    return {
        "pred_latent": forecast.token,
        "pred_delta_translation": forecast.motion[:, :2],
        "pred_relative_rotation": slot[:, 2:6],
        "pred_next_translation": following.position,
        "pred_next_rotation": following.rotation,
        "pred_next_ego_to_global": following.pose,
        "pred_curr_to_futu_info": _twelve(curr_to_next(state.ego, following)),
        "pred_ego_lcf_feat": slot[:, 6:],
    }


def _twelve(transform: Tensor) -> Tensor:
    """A transform (..., 4, 4) as 12 numbers: rotation row by row, translation."""
    return torch.cat((transform[..., :3, :3].flatten(-2), transform[..., :3, 3]), -1)


def _latents(world: WorldComparison, prefix: str, latents: Tensor, stage: str) -> None:
    """Forecast tokens (B, K, C, Xl, Yl), stored for all steps or for the first and the last."""
    for key, value in world.check.strided(f"{prefix}pred_latent", latents).items():
        ends = value[:, [0, -1]] if world.file.array(key).shape[1] == 2 else value
        world.check.close(stage, "forecast", {key: ends})


def _decoded(world: WorldComparison, prefix: str, token: Tensor) -> None:
    """A forecast that is stored as occupancy."""
    if not world.file.matches(prefix):
        return
    if world.tokenizer is None:
        world.check.report.skipped[f"{world.file.path.name}: {prefix}*"] = "needs tok_sd.npz and tok_*.npz"
        return
    world.check.decoded(prefix, f"{prefix}semantics", world.tokenizer, token, world.tokenizer.decode_logits(token))


def _singles(world: WorldComparison) -> None:
    """The first call sample by sample: the published batch of one (deviation 5)."""
    future, start = world.future("s0.meta")
    for b in range(len(world.tokens)):
        one = slice(b, b + 1)
        state, features, token = world.begin(world.unobserved(), future, start).index(one), [], world.tokens[one, 0]
        for step in range(future.features.shape[1]):
            forecast = world.model.predict(state, future.command[one, step], future.curr_to_next[one, step])
            features.append(_predicted(state, forecast)["pred_ego_lcf_feat"])
            state, token = world.next(state, forecast), forecast.token
        stage = "generate, one sample at a time"
        world.check.close(stage, "pose", {f"bs1.{b}.pred_ego_lcf_feat": torch.stack(features, 1)})
        world.check.close(stage, "forecast", {f"bs1.{b}.pred_latent_last": token})


def _layers(world: WorldComparison) -> None:
    """Outputs of inner layers at the first step of the first sample."""
    layers = world.file.matches(r"layer\.(?:(.*)\.)?(\d+)$")
    future, start = world.future("s0.meta")
    with recorded(world.model, {match[1] for match in layers.values()}) as calls:
        state = world.begin(world.unobserved(), future, start)
        world.model.predict(state, future.command[:, 0], future.curr_to_next[:, 0])
    for key, match in layers.items():
        outputs = _as_published(match[1], calls[match[1]], world.tokens)
        if int(match[2]) >= len(outputs):
            raise DataError(f"{world.file.path}: {key}", f"{len(outputs)} outputs of {match[1]}", "")
        value = outputs[int(match[2])][:1]
        # The published layers pass maps on as cells.
        if value.dim() == 4 and world.file.array(key).ndim == 3:
            value = value.flatten(2).transpose(1, 2)
        world.check.close("layer outputs", "layer", {key: value})


def _as_published(name: str, call: Call, tokens: Tensor) -> tuple[Tensor, ...]:
    """The outputs of a layer in the published form."""
    if name.endswith("positional_encoding"):
        return (call.outputs[0].t().reshape(1, -1, *tokens.shape[-2:]),)
    if "intra_encoder" in name and name.endswith("attentions.1"):
        # The published plan attention hands the map on unchanged, in front of the plan.
        return (call.inputs[1], call.outputs[0])
    return call.outputs


def _teacher_forcing(world: WorldComparison, rate: str, steps: int) -> Tensor:
    """(K, B) bool, where the truth replaces the prediction."""
    masks = world.file.optional(f"train.rate{rate}.use_gt_masks")
    if masks is not None:
        return masks.bool()
    if float(rate) not in (0.0, 1.0):
        raise DataError(f"{world.file.path}: rate {rate} without use_gt_masks", "the masks drawn", "")
    return torch.full((steps, len(world.tokens)), float(rate) == 1.0)


def _rollout(
    world: WorldComparison, rate: str, meta: str, ego: EgoState, prefix: str, stage: str
) -> tuple[EgoState, RolloutLosses]:
    """Losses of one call, compared; returns the state for the next call, and the losses."""
    future, start = world.future(meta)
    steps = future.features.shape[1]
    weights = ForecasterLossConfig().step_weights[:steps]
    if len(weights) != steps or world.tokens.shape[1] != steps + 1:
        raise DataError(
            f"{world.file.path}: training of {steps} steps with {world.tokens.shape[1]} tokens",
            f"at most {len(weights)} steps, and a token for each frame",
            "",
        )
    forced, state = _teacher_forcing(world, rate, steps), world.begin(ego, future, start)
    state, losses = published_rollout(world.model, state, future, forced, weights, couple_batch=world.couple)
    terms = (losses.token, losses.trajectory, losses.rotation, losses.total)
    for name, value in zip(("feat_sim", "trajs_loss", "rotation_loss", "total"), terms, strict=True):
        world.check.close(f"{stage}: {name}", "forecast", {prefix + name: value})
    return observe_first(state, future), losses


def _training_losses(world: WorldComparison, rate: str) -> None:
    """Losses of consecutive calls, in evaluation mode."""
    ego, call = world.unobserved(), 0
    while (prefix := f"train.rate{rate}.c{call}.") + "feat_sim" in world.file:
        ego, _ = _rollout(world, rate, f"train.meta{call}", ego, prefix, "training losses")
        call += 1


def _training_step(world: WorldComparison, rate: str) -> None:
    """Losses, gradients and batch statistics of one step in training mode."""
    world.reset()
    world.model.train()
    prefix = f"trainmode.rate{rate}."
    _, losses = _rollout(world, rate, "train.meta0", world.unobserved(), prefix, "training mode")
    torch.autograd.backward(losses.total)
    norms = f"{prefix}grad_norm"
    world.check.gradients(f"{prefix}grad.", world.model, world.names, "gradient", norms=norms)
    buffers, keys = dict(world.model.named_buffers()), world.file.matches(rf"{prefix}bn\.(.*)")
    statistics = {key: buffers[match[1]] for key, match in keys.items()}
    world.check.close("training mode: batch statistics", "forecast", statistics)
    world.reset()
