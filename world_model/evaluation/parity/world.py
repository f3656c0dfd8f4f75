"""The forecaster against golden files: rollouts in both control modes with streaming state, and training."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.geometry import pose_matrix
from world_model.evaluation.parity.golden import GoldenFile
from world_model.evaluation.parity.hooks import Call, recorded
from world_model.evaluation.parity.measure import Report
from world_model.evaluation.parity.sizes import fill, for_map, forecaster_config
from world_model.evaluation.parity.tokenizer import verify_gradients, verify_labels, verify_logits
from world_model.models.forecaster import Forecast, Forecaster, ForecastState
from world_model.models.forecaster.ego import EgoState, curr_to_next
from world_model.models.forecaster.motion import commands_from_one_hot
from world_model.models.forecaster.objective import Future, RolloutLosses, observe_first, published_rollout
from world_model.models.forecaster.training import ForecasterLossConfig
from world_model.models.tokenizer import Tokenizer

MODES = ("generate", "high-level-control")
LAYER = "layer."


class WorldFile:
    """A ``world_*.npz`` with the model and the tokens that it belongs to.

    Args:
        file: the golden file.
        weights: state dict of the forecaster.
        tokens: (B, 1 or 1+K, C, Xl, Yl) the current token, and the targets where the file trains.
        report: where the comparisons go.
        tokenizer: decodes forecasts, where the file holds decoded ones.
    """

    def __init__(
        self,
        file: GoldenFile,
        weights: Mapping[str, Tensor],
        tokens: Tensor,
        report: Report,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        size = (int(tokens.shape[-2]), int(tokens.shape[-1]))
        self.file, self.report, self.tokenizer = file, report, tokenizer
        self.tokens = tokens.to(report.dtype)
        self.weights = for_map(weights, size)
        self.names = [n for n in weights if "running_" not in n and "num_batches" not in n]
        if "train.param_names" in file:
            self.names = [str(name) for name in file.array("train.param_names")]
        self.model = Forecaster(forecaster_config(weights, size))
        self.slots = self.model.config.history
        # Several samples at once were measured with the speed of the whole batch (deviation 5).
        self.couple = len(tokens) > 1
        self.reset()

    def reset(self) -> None:
        """The stored weights, in evaluation mode."""
        fill(self.model, self.weights)
        self.model.to(self.report.dtype).eval().zero_grad()

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
            curr_to_next=read("curr_to_future_ego_rt").to(self.report.dtype),
            valid=read("valid_frame").bool(),
        )
        poses = pose_matrix(future.position, future.rotation)
        self.report.close(self.file, f"{prefix}.curr_ego_to_global", poses, "pose", "poses of the inputs")
        return future, read("start_of_sequence").bool()

    def begin(self, ego: EgoState, future: Future, start: Tensor) -> ForecastState:
        """The state at the start of a call."""
        return self.model.resume(self.tokens[:, 0], ego, future.position[:, 0], future.rotation[:, 0], start)

    def fresh(self) -> EgoState:
        """Streaming state that has seen nothing."""
        return EgoState.initial(len(self.tokens), self.slots)


def verify_world(world: WorldFile) -> None:
    """Compare every array of a ``world_*.npz``."""
    keys = world.file.keys()
    for mode in MODES:
        verify_calls(world, mode)
    with torch.no_grad():
        if any(key.startswith("bs1.") for key in keys):
            _singles(world)
        if any(key.startswith(LAYER) for key in keys):
            _layers(world)
        rates = dict.fromkeys(m[1] for key in keys if (m := re.match(r"train\.rate([\d.]+?)\.c\d", key)))
        for rate in rates:
            _training_losses(world, rate)
    for rate in dict.fromkeys(m[1] for key in keys if (m := re.match(r"trainmode\.rate([\d.]+?)\.[a-z]", key))):
        _training_step(world, rate)


@torch.no_grad()
def verify_calls(world: WorldFile, mode: str) -> None:
    """Compare the consecutive calls of one control mode."""
    numbers = {int(m[1]) for key in world.file.keys() if (m := re.match(r"s(\d+)\.meta\.", key))}  # noqa: SIM118
    ego = world.fresh()
    for k in sorted(numbers):
        ego = _call(world, k, mode, ego)


def _call(world: WorldFile, k: int, mode: str, ego: EgoState) -> EgoState:
    """One call of a control mode: a rollout, compared step by step; returns the state for the next call."""
    future, start = world.future(f"s{k}.meta")
    state = world.begin(ego, future, start)
    prefix, steps = f"s{k}.{mode}.", future.features.shape[1]
    found: dict[str, list[Tensor]] = {}
    for step in range(steps):
        given = future.curr_to_next[:, step] if mode == "generate" else None
        for name, value in _before(world, state, future, step).items():
            found.setdefault(name, []).append(value)
        forecast = world.model.predict(state, future.command[:, step], given, couple_batch=world.couple)
        for name, value in _predicted(state, forecast).items():
            found.setdefault(name, []).append(value)
        state, _ = _follow(world, state, forecast)
        _decoded(world, prefix, step, forecast.token)
    latents = torch.stack(found.pop("pred_latent"), 1)
    _latents(world, prefix, latents)
    for name, values in found.items():
        kind = "forecast" if name == "plan_query" else "pose"
        world.report.close(world.file, prefix + name, torch.stack(values, 1), kind, f"{mode}: {name}")
    _given(world, prefix, future, mode)
    ego = observe_first(state, future)
    for name, value in {
        "observe_delta_translation": ego.observed[..., :2],
        "observe_relative_rotation": ego.observed[..., 2:6],
        "observe_ego_lcf_feat": ego.observed[..., 6:],
        "ego_yaw_prev": ego.last_yaw,
        "ego_pos_prev": ego.last_position,
    }.items():
        world.report.close(world.file, f"{prefix}{name}_after", value, "pose", f"{mode}: state after the call")
    return ego


def _before(world: WorldFile, state: ForecastState, future: Future, step: int) -> dict[str, Tensor]:
    """What a step starts from."""
    ego = state.ego
    assert ego is not None
    obeyed, _ = ego.obey(future.command[:, step])
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


def _follow(world: WorldFile, state: ForecastState, forecast: Forecast) -> tuple[ForecastState, Forecast]:
    assert forecast.predicted_ego is not None
    return world.model.go_on(state, forecast.token, *forecast.predicted_ego), forecast


def _given(world: WorldFile, prefix: str, future: Future, mode: str) -> None:
    """The stored transforms are those of the inputs; under high-level control, step 0's over and over, and unused."""
    given = future.curr_to_next if mode == "generate" else future.curr_to_next[:, :1].expand_as(future.curr_to_next)
    world.report.close(world.file, f"{prefix}curr_to_future_ego_rt", given, "pose", f"{mode}: given transforms")
    world.report.close(
        world.file, f"{prefix}targ_curr_to_futu_info", _twelve(given), "pose", f"{mode}: given transforms"
    )


def _latents(world: WorldFile, prefix: str, latents: Tensor) -> None:
    """Forecast tokens (B, K, C, Xl, Yl), stored for all steps, for the first and the last, or with a stride."""
    for key in world.file.keys():  # noqa: SIM118 (not a dict)
        if match := re.fullmatch(re.escape(prefix) + r"pred_latent(?:_s(\d+))?", key):
            stride = int(match[1] or 1)
            found = latents[..., ::stride, ::stride]
            if world.file.array(key).shape[1] == 2:
                found = found[:, [0, -1]]
            world.report.close(world.file, key, found, "forecast", f"{prefix.split('.')[1]}: forecast tokens")


def _decoded(world: WorldFile, prefix: str, step: int, token: Tensor) -> None:
    """Forecasts that are stored as occupancy."""
    place = f"{prefix}step{step}_"
    if not any(key.startswith(place) for key in world.file.keys()):  # noqa: SIM118 (not a dict)
        return
    if world.tokenizer is None:
        world.report.skipped[f"{world.file.path.name}: {place}*"] = "needs tok_sd.npz and tok_*.npz"
        return
    logits = world.tokenizer.decode_logits(token)
    verify_logits(world.file, place, logits, world.report)
    verify_labels(world.file, f"{place}semantics", world.tokenizer.decode(token), logits, world.report)


def _singles(world: WorldFile) -> None:
    """The first call sample by sample: the published batch of one (deviation 5)."""
    future, start = world.future("s0.meta")
    for b in range(len(world.tokens)):
        one = slice(b, b + 1)
        state, features = world.begin(world.fresh(), future, start).index(one), []
        forecast = None
        for step in range(future.features.shape[1]):
            forecast = world.model.predict(state, future.command[one, step], future.curr_to_next[one, step])
            features.append(_predicted(state, forecast)["pred_ego_lcf_feat"])
            state, _ = _follow(world, state, forecast)
        assert forecast is not None
        stage = "generate, one sample at a time"
        world.report.close(world.file, f"bs1.{b}.pred_ego_lcf_feat", torch.stack(features, 1), "pose", stage)
        world.report.close(world.file, f"bs1.{b}.pred_latent_last", forecast.token, "forecast", stage)


def _layers(world: WorldFile) -> None:
    """Outputs of inner layers at the first step of the first sample."""
    keys = [key for key in world.file.keys() if key.startswith(LAYER)]  # noqa: SIM118 (not a dict)
    future, start = world.future("s0.meta")
    names = {key[len(LAYER) :].rpartition(".")[0] for key in keys}
    with recorded(world.model, names) as calls:
        world.model.predict(world.begin(world.fresh(), future, start), future.command[:, 0], future.curr_to_next[:, 0])
    for key in keys:
        name, _, place = key[len(LAYER) :].rpartition(".")
        outputs = _as_published(name, calls[name], world.tokens)
        if int(place) >= len(outputs):
            raise DataError(f"{world.file.path}: {key}", f"{len(outputs)} outputs of {name}", "")
        value = outputs[int(place)][:1]
        shape = world.file.array(key).shape
        # The published layers pass maps on as cells.
        value = value.flatten(2).transpose(1, 2) if value.dim() == 4 and len(shape) == 3 else value
        world.report.close(world.file, key, value, "layer", "layer outputs")


def _as_published(name: str, call: Call, tokens: Tensor) -> tuple[Tensor, ...]:
    """The outputs of a layer in the published form."""
    if name.endswith("positional_encoding"):
        return (call.outputs[0].t().reshape(1, -1, *tokens.shape[-2:]),)
    if "intra_encoder" in name and name.endswith("attentions.1"):
        # The published plan attention hands the map on unchanged, in front of the plan.
        return (call.inputs[1], call.outputs[0])
    return call.outputs


def _taught(world: WorldFile, rate: str, steps: int) -> Tensor:
    """(K, B) bool, where the truth replaces the prediction."""
    masks = world.file.optional(f"train.rate{rate}.use_gt_masks")
    if masks is not None:
        return masks.bool()
    if float(rate) not in (0.0, 1.0):
        raise DataError(f"{world.file.path}: rate {rate} without use_gt_masks", "the masks drawn", "")
    return torch.full((steps, len(world.tokens)), float(rate) == 1.0)


def _rollout(world: WorldFile, rate: str, meta: str, ego: EgoState) -> tuple[EgoState, RolloutLosses]:
    future, start = world.future(meta)
    steps = future.features.shape[1]
    weights = ForecasterLossConfig().step_weights[:steps]
    if len(weights) != steps or world.tokens.shape[1] != steps + 1:
        raise DataError(
            f"{world.file.path}: training of {steps} steps with {world.tokens.shape[1]} tokens",
            f"at most {len(weights)} steps, and a token for each frame",
            "",
        )
    taught = _taught(world, rate, steps)
    state = world.begin(ego, future, start)
    state, losses = published_rollout(world.model, state, future, taught, weights, couple_batch=world.couple)
    return observe_first(state, future), losses


def _compare_losses(world: WorldFile, prefix: str, losses: RolloutLosses, stage: str) -> None:
    for name, value in {
        "feat_sim": losses.token,
        "trajs_loss": losses.trajectory,
        "rotation_loss": losses.rotation,
        "total": losses.total,
    }.items():
        world.report.close(world.file, prefix + name, value, "forecast", f"{stage}: {name}")


def _training_losses(world: WorldFile, rate: str) -> None:
    """Losses of consecutive calls, in evaluation mode."""
    ego, call = world.fresh(), 0
    while f"train.rate{rate}.c{call}.feat_sim" in world.file:
        ego, losses = _rollout(world, rate, f"train.meta{call}", ego)
        _compare_losses(world, f"train.rate{rate}.c{call}.", losses, "training losses")
        call += 1


def _training_step(world: WorldFile, rate: str) -> None:
    """Losses, gradients and batch statistics of one step in training mode."""
    world.reset()
    world.model.train()
    _, losses = _rollout(world, rate, "train.meta0", world.fresh())
    losses.total.backward()
    prefix = f"trainmode.rate{rate}."
    _compare_losses(world, prefix, losses, "training mode")
    verify_gradients(
        world.file, prefix, world.model, world.names, world.report, kind="gradient", skip=re.compile(r"(?!)")
    )
    buffers = dict(world.model.named_buffers())
    for key in world.file.keys():  # noqa: SIM118 (not a dict)
        if key.startswith(f"{prefix}bn."):
            world.report.close(
                world.file, key, buffers[key[len(prefix) + 3 :]], "forecast", "training mode: batch statistics"
            )
    world.reset()
