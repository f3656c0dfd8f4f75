"""The tokenizer against golden files: every stage of every frame, and training."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.geometry import invert_pose
from world_model.core.grid import NUM_CLASSES
from world_model.evaluation.parity.comparison import Comparison
from world_model.evaluation.parity.golden import GoldenFile
from world_model.evaluation.parity.recorded import recorded
from world_model.evaluation.parity.sizes import centred_grid, fill, tokenizer_config
from world_model.models.losses import CLASS_WEIGHTS, radial_focal, reconstruction_loss
from world_model.models.tokenizer import Memory, Tokenizer
from world_model.models.tokenizer.quantizer import Quantized

Motion = tuple[Tensor, Tensor, Tensor | None]
"""What `Tokenizer.encode` wants of a frame beside the labels and the memory."""
KEY_BIAS = r"\.attn(_1|\.\d+)\.k\.bias$"
"""A key's bias shifts all scores of a row alike: its gradient is 0, and rounding noise is stored."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The frames of a golden file: T frames of B streams.

    Attributes:
        labels: (T, B, X, Y, Z) uint8.
        curr_to_prev: (T, B, 4, 4).
        augmentation: (T, B, 4, 4), or None.
        start: (T, B) bool.
    """

    labels: Tensor
    curr_to_prev: Tensor
    augmentation: Tensor | None
    start: Tensor

    @staticmethod
    def of(file: GoldenFile) -> Frames:
        """The frames of a file, whose arrays may leave out a batch axis of one."""
        labels = file.tensor("occ")
        labels = labels[:, None] if labels.dim() == 4 else labels
        if labels.dim() != 5 or labels.max() >= NUM_CLASSES:
            raise DataError(f"{file.path}: occ of shape {tuple(labels.shape)}", "(T, B, X, Y, Z), classes 0..17", "")
        frames, batch = labels.shape[:2]
        motion, augmentation, start = (file.optional(name) for name in ("curr_to_prev", "bda", "start"))
        if motion is None:
            motion = torch.stack([file.tensor(f"f{t}.curr_to_prev") for t in range(frames)])
        if start is None:
            start = (torch.arange(frames) == 0)[:, None].expand(-1, batch)
        return Frames(
            labels=labels,
            curr_to_prev=_framed(file, "curr_to_prev", motion, (frames, batch, 4, 4)),
            augmentation=None if augmentation is None else _framed(file, "bda", augmentation, (frames, batch, 4, 4)),
            start=_framed(file, "start", start, (frames, batch)).bool(),
        )

    def motion(self, frame: int, dtype: torch.dtype) -> Motion:
        """The inputs of one frame."""
        augmentation = None if self.augmentation is None else self.augmentation[frame].to(dtype)
        return self.curr_to_prev[frame].to(dtype), self.start[frame], augmentation


def _framed(file: GoldenFile, key: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An array with one row per frame and stream, whose axis of streams may be left out where there is only one."""
    if shape[1] == 1 and value.dim() == len(shape) - 1:
        value = value[:, None]
    if tuple(value.shape) != shape:
        raise DataError(f"{file.path}: {key} of shape {tuple(value.shape)}", str(shape), "copy the folder again")
    return value


def build(weights: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tokenizer:
    """The tokenizer of a state dict, for labels of a shape (X, Y, Z)."""
    model = Tokenizer(tokenizer_config(weights, centred_grid(shape)))
    fill(model, weights)
    return model.to(dtype).eval()


def verify_tokenizer(check: Comparison, weights: Mapping[str, Tensor]) -> None:
    """Compare every array of a ``tok_*.npz``."""
    file, frames = check.file, Frames.of(check.file)
    count, batch, *shape = frames.labels.shape
    model = build(weights, tuple(shape), check.dtype)
    memory = model.empty_memory(batch)
    with torch.no_grad():
        for t in range(count):
            memory = _frame(check, f"f{t}.", model, frames.labels[t], memory, frames.motion(t, check.dtype))
        if "rand.occ_sha256" in file:
            still = torch.eye(4, dtype=check.dtype)[None], torch.ones(1, dtype=torch.bool), None
            _frame(check, "rand.", model, _noise(file, shape), model.empty_memory(1), still)
    if "ego_to_global" in file:
        poses = file.tensor("ego_to_global").double()
        motions = {f"f{t}.curr_to_prev": invert_pose(poses[t - 1]) @ poses[t] for t in range(1, count)}
        check.close("transforms of the inputs", "input", motions)
    if file.matches(r"train\."):
        _training(check, model, frames)


def _noise(file: GoldenFile, shape: list[int]) -> Tensor:
    """The labels (1, X, Y, Z) of uniform noise that files name by their hash."""
    labels = np.random.RandomState(100).randint(0, 18, tuple(shape)).astype(np.uint8)
    expected = bytes(file.array("rand.occ_sha256")).decode("ascii", "replace")
    if hashlib.sha256(labels.tobytes()).hexdigest() != expected:
        raise DataError(
            f"{file.path}: rand.occ_sha256 is {expected}", "the hash of RandomState(100) over the labels' shape", ""
        )
    return torch.from_numpy(labels)[None]


def _frame(check: Comparison, prefix: str, model: Tokenizer, labels: Tensor, memory: Memory, motion: Motion) -> Memory:
    """Encode and decode one frame, compare, and return the memory after it."""
    layers = check.file.matches(re.escape(f"{prefix}layer.") + "(.*)")
    with recorded(model, {"vq", *(match[1] for match in layers.values())}) as calls:
        encoded = model.encode(labels, memory, *motion)
        latent, history = calls["vq"].inputs
        quantized = Quantized(token=encoded.token, codes=encoded.codes, vq_loss=encoded.vq_loss, inputs=encoded.inputs)
        quantized = _codes(check, prefix, model, latent, history, quantized)
        token = quantized.token
        logits = model.decode_logits(token)
    outputs = {key: calls[match[1]].outputs[0][:1] for key, match in layers.items()}
    check.close("layer outputs", "layer", outputs)
    check.close("encoder output", "latent", check.strided(f"{prefix}latent", latent))
    maps = {"history": history, **{f"history_{i}": history[:, i] for i in range(history.shape[1])}}
    for name, value in maps.items():
        check.close("aligned memory", "history", check.strided(prefix + name, value))
    check.close("token", "token", check.strided(f"{prefix}z_q", token))
    check.close("codebook loss", "token", {f"{prefix}vq_loss": quantized.vq_loss})
    check.decoded(prefix, f"{prefix}pred", model, token, logits)
    if f"{prefix}pred_min_margin" in check.file:
        two = logits.topk(2, dim=-1).values
        check.close("logits", "token", {f"{prefix}pred_min_margin": (two[..., 0] - two[..., 1]).amin()})
    if f"{prefix}recon_loss" in check.file:
        # The reference values are those of logits rounded to float32.
        loss, parts = reconstruction_loss(logits.float(), labels)
        weighted = radial_focal(logits.float(), labels, torch.tensor(CLASS_WEIGHTS)) + parts["lovasz"]
        losses = {f"{prefix}recon_loss": loss, f"{prefix}recon_loss_class_weights": weighted}
        check.close("reconstruction loss", "single", losses)
    buffer = encoded.memory.latents.flatten(1, 2).transpose(-1, -2)[:, :, None]
    check.close("memory after the frame", "history", {f"{prefix}history_buffer_after": buffer})
    return encoded.memory


def _codes(
    check: Comparison, prefix: str, model: Tokenizer, latent: Tensor, history: Tensor, quantized: Quantized
) -> Quantized:
    """Compare the codes; where some differ, prove that they are ties and go on with the published ones."""
    given = [check.file.optional(f"{prefix}idx{i}") for i in range(len(quantized.codes))]
    known = [g.long().view_as(c) for g, c in zip(given, quantized.codes, strict=True) if g is not None]
    if len(known) == len(given) and any((a != b).any() for a, b in zip(known, quantized.codes, strict=True)):
        quantized = model.vq(latent, history, codes=known)
    book, slack = model.vq.embedding.weight.detach(), check.slack("latent") + check.slack("history")
    for i, (z, used) in enumerate(zip(quantized.inputs, quantized.codes, strict=True)):
        distance = (z[..., None, :] - book).square().sum(-1)
        nearest = distance.topk(2, largest=False)
        gap = distance.gather(-1, used[..., None])[..., 0] - nearest.values[..., 0]
        # Inputs that are off by `slack` in every channel move the gap between two codes by no more than this.
        limit = 2 * slack * (book[used] - book[nearest.indices[..., 0]]).abs().sum(-1)
        stage = f"quantizer {i}: "
        check.equal(stage + "codes", f"{prefix}idx{i}", model.vq.nearest(z).flatten(), (gap <= limit).flatten())
        check.close(stage + "input (residual)", "history", {f"{prefix}vq_in{i}": z.permute(0, 3, 1, 2)})
        check.close(stage + "code vectors", "token", {f"{prefix}vq_out{i}": book[used].permute(0, 3, 1, 2)})
        margin = nearest.values[..., 1] - nearest.values[..., 0]
        check.close(stage + "margin", "margin", {f"{prefix}margin{i}": margin.flatten()})
    return quantized


def _training(check: Comparison, model: Tokenizer, frames: Frames) -> None:
    """Losses and gradients of consecutive frames with one streaming memory."""
    model.train()
    memory, t = model.empty_memory(frames.labels.shape[1]), 0
    names = check.file.strings("train.param_names")
    while (prefix := f"train.f{t}.") + "recon_loss" in check.file:
        model.zero_grad()
        encoded = model.encode(frames.labels[t], memory, *frames.motion(t, check.dtype))
        loss, _ = reconstruction_loss(model.decode_logits(encoded.token), frames.labels[t])
        torch.autograd.backward(loss + encoded.vq_loss)
        memory, t = encoded.memory, t + 1
        check.close("training: reconstruction loss", "single", {f"{prefix}recon_loss": loss})
        check.close("training: codebook loss", "single", {f"{prefix}embed_loss": encoded.vq_loss})
        check.gradients(f"{prefix}grad.", model, names, "single gradient", skip=KEY_BIAS, norms=f"{prefix}grad_norm")
    model.eval()
