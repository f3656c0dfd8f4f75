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
from world_model.evaluation.parity.golden import GoldenFile
from world_model.evaluation.parity.hooks import recorded
from world_model.evaluation.parity.measure import TOLERANCE, Report
from world_model.evaluation.parity.sizes import centred_grid, fill, tokenizer_config
from world_model.models.losses import CLASS_WEIGHTS, radial_focal, reconstruction_loss
from world_model.models.tokenizer import Memory, Tokenizer
from world_model.models.tokenizer.quantizer import Quantized


@dataclass(frozen=True, kw_only=True)
class Drive:
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
    def of(file: GoldenFile) -> Drive:
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
        return Drive(
            labels=labels,
            curr_to_prev=_framed(file, "curr_to_prev", motion, (frames, batch, 4, 4)),
            augmentation=None if augmentation is None else _framed(file, "bda", augmentation, (frames, batch, 4, 4)),
            start=_framed(file, "start", start, (frames, batch)).bool(),
        )

    def motion(self, frame: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
        """What `Tokenizer.encode` wants of a frame beside the labels and the memory."""
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


def verify_tokenizer(file: GoldenFile, weights: Mapping[str, Tensor], report: Report) -> None:
    """Compare every array of a ``tok_*.npz``."""
    drive = Drive.of(file)
    model = build(weights, tuple(drive.labels.shape[2:]), report.dtype)
    memory = model.empty_memory(drive.labels.shape[1])
    with torch.no_grad():
        for frame, labels in enumerate(drive.labels):
            memory = _frame(file, f"f{frame}.", model, labels, memory, drive.motion(frame, report.dtype), report)
        if "rand.occ_sha256" in file:
            labels = _noise(file, drive.labels.shape[2:])
            still = torch.eye(4, dtype=report.dtype)[None], torch.ones(1, dtype=torch.bool), None
            _frame(file, "rand.", model, labels, model.empty_memory(1), still, report)
    if "ego_to_global" in file:
        poses = file.tensor("ego_to_global").double()
        for frame in range(1, len(drive.labels)):
            motion = invert_pose(poses[frame - 1]) @ poses[frame]
            report.close(file, f"f{frame}.curr_to_prev", motion, "input", "transforms of the inputs")
    if any(key.startswith("train.") for key in file.keys()):  # noqa: SIM118 (not a dict)
        _training(file, model, drive, report)


def _noise(file: GoldenFile, shape: torch.Size) -> Tensor:
    """The labels of uniform noise that files name by their hash."""
    labels = np.random.RandomState(100).randint(0, 18, tuple(shape)).astype(np.uint8)
    expected = bytes(file.array("rand.occ_sha256")).decode("ascii", "replace")
    if hashlib.sha256(labels.tobytes()).hexdigest() != expected:
        raise DataError(
            f"{file.path}: rand.occ_sha256 is {expected}", "the hash of RandomState(100) over the labels' shape", ""
        )
    return torch.from_numpy(labels)[None]


def _frame(
    file: GoldenFile,
    prefix: str,
    model: Tokenizer,
    labels: Tensor,
    memory: Memory,
    motion: tuple[Tensor, Tensor, Tensor | None],
    report: Report,
) -> Memory:
    """Encode and decode one frame, compare, and return the memory after it."""
    layers = [key for key in file.keys() if key.startswith(f"{prefix}layer.")]  # noqa: SIM118 (not a dict)
    names = {"vq", *(key[len(prefix) + 6 :] for key in layers)}
    with recorded(model, names) as calls:
        encoded = model.encode(labels, memory, motion[0], motion[1], motion[2])
        latent, history = calls["vq"].inputs
        quantized = Quantized(token=encoded.token, codes=encoded.codes, vq_loss=encoded.vq_loss, inputs=encoded.inputs)
        quantized = _codes(file, prefix, model, latent, history, quantized, report)
        logits = model.decode_logits(quantized.token)
    for key in layers:
        outputs = calls[key[len(prefix) + 6 :]].outputs
        report.close(file, key, outputs[0][:1], "layer", "layer outputs")
    _maps(file, prefix, "latent", latent, "latent", "encoder output", report)
    _maps(file, prefix, "history", history, "history", "aligned memory", report)
    for i in range(history.shape[1]):
        _maps(file, prefix, f"history_{i}", history[:, i], "history", "aligned memory", report)
    _maps(file, prefix, "z_q", quantized.token, "token", "token", report)
    report.close(file, f"{prefix}vq_loss", quantized.vq_loss, "token", "codebook loss")
    _decoded(file, prefix, model, logits, quantized.token, labels, report)
    buffer = encoded.memory.latents.flatten(1, 2).transpose(-1, -2)[:, :, None]
    report.close(file, f"{prefix}history_buffer_after", buffer, "history", "memory after the frame")
    return encoded.memory


def _codes(
    file: GoldenFile,
    prefix: str,
    model: Tokenizer,
    latent: Tensor,
    history: Tensor,
    quantized: Quantized,
    report: Report,
) -> Quantized:
    """Compare the codes; where some differ, prove that they are ties and go on with the published ones."""
    stages = range(len(quantized.codes))
    given = [file.optional(f"{prefix}idx{i}") for i in stages]
    known = [g.long().view_as(c) for g, c in zip(given, quantized.codes, strict=True) if g is not None]
    if len(known) == len(stages) and any((a != b).any() for a, b in zip(known, quantized.codes, strict=True)):
        quantized = model.vq(latent, history, codes=known)
    book, slack = model.vq.embedding.weight.detach(), sum(_slack(report.dtype))
    for i, z in enumerate(quantized.inputs):
        stage = f"quantizer {i}: "
        distance = (z[..., None, :] - book).square().sum(-1)
        nearest = distance.topk(2, largest=False)
        used = quantized.codes[i]
        gap = distance.gather(-1, used[..., None])[..., 0] - nearest.values[..., 0]
        reach = (book[used] - book[nearest.indices[..., 0]]).abs().sum(-1)
        # Inputs that are off by `slack` in every channel move the gap between two codes by no more than this.
        report.equal(
            file,
            f"{prefix}idx{i}",
            model.vq.nearest(z).flatten(),
            stage + "codes",
            (gap <= 2 * slack * reach).flatten(),
        )
        report.close(file, f"{prefix}vq_in{i}", z.permute(0, 3, 1, 2), "history", stage + "input (residual)")
        report.close(file, f"{prefix}vq_out{i}", book[used].permute(0, 3, 1, 2), "token", stage + "code vectors")
        margin = nearest.values[..., 1] - nearest.values[..., 0]
        report.close(file, f"{prefix}margin{i}", margin.flatten(), "margin", stage + "margin")
    return quantized


def _slack(dtype: torch.dtype) -> tuple[float, float]:
    return TOLERANCE["latent"].of(dtype, 0.0), TOLERANCE["history"].of(dtype, 0.0)


def _maps(file: GoldenFile, prefix: str, name: str, value: Tensor, kind: str, stage: str, report: Report) -> None:
    """Compare maps (..., X, Y), also those stored with a stride as NAME_sN."""
    report.close(file, prefix + name, value, kind, stage)
    for key in file.keys():  # noqa: SIM118 (not a dict)
        if match := re.fullmatch(re.escape(prefix + name) + r"_s(\d+)", key):
            step = int(match[1])
            report.close(file, key, value[..., ::step, ::step], kind, stage)


def verify_logits(file: GoldenFile, prefix: str, logits: Tensor, report: Report) -> None:
    """Compare logits (B, X, Y, Z, K), stored whole or with a stride in x and y."""
    moved = logits.movedim((1, 2), (-2, -1))
    for key in file.keys():  # noqa: SIM118 (not a dict)
        if match := re.fullmatch(re.escape(prefix) + r"logits(?:_s(\d+))?", key):
            step = int(match[1] or 1)
            report.close(file, key, moved[..., ::step, ::step].movedim((-2, -1), (1, 2))[:, None], "token", "logits")


def verify_labels(file: GoldenFile, key: str, labels: Tensor, logits: Tensor, report: Report) -> None:
    """Compare decoded labels (B, X, Y, Z); labels whose logits lie within the tolerance are ties."""
    if key not in file:
        return
    given = file.tensor(key).long()[:, 0]
    if given.shape != labels.shape:
        raise DataError(f"{file.path}: {key} of shape {tuple(given.shape)}", str(tuple(labels.shape)), "")
    best = logits.amax(-1)
    gap = best - logits.gather(-1, given[..., None])[..., 0]
    # The fast decoder tells logits apart to 4e-6 of their size.
    slack = 2 * TOLERANCE["token"].of(report.dtype, 0.0) + 4e-6 * best.abs()
    report.equal(file, key, labels[:, None], "labels", (gap <= slack)[:, None])


def _decoded(
    file: GoldenFile, prefix: str, model: Tokenizer, logits: Tensor, token: Tensor, labels: Tensor, report: Report
) -> None:
    verify_logits(file, prefix, logits, report)
    verify_labels(file, f"{prefix}pred", model.decode(token), logits, report)
    if f"{prefix}pred_min_margin" in file:
        two = logits.topk(2, dim=-1).values
        report.close(file, f"{prefix}pred_min_margin", (two[..., 0] - two[..., 1]).amin(), "token", "logits")
    if f"{prefix}recon_loss" in file:
        # The reference values are those of logits rounded to float32.
        logits = logits.float()
        loss, parts = reconstruction_loss(logits, labels)
        weighted = radial_focal(logits, labels, torch.tensor(CLASS_WEIGHTS)) + parts["lovasz"]
        report.close(file, f"{prefix}recon_loss", loss, "single", "reconstruction loss")
        report.close(file, f"{prefix}recon_loss_class_weights", weighted, "single", "reconstruction loss")


def _training(file: GoldenFile, model: Tokenizer, drive: Drive, report: Report) -> None:
    """Losses and gradients of consecutive frames with one streaming memory."""
    model.train()
    memory, frame = model.empty_memory(drive.labels.shape[1]), 0
    names = [str(name) for name in file.array("train.param_names")]
    while f"train.f{frame}.recon_loss" in file:
        model.zero_grad()
        prefix, labels, motion = f"train.f{frame}.", drive.labels[frame], drive.motion(frame, report.dtype)
        encoded = model.encode(labels, memory, motion[0], motion[1], motion[2])
        recon, _ = reconstruction_loss(model.decode_logits(encoded.token), labels)
        (recon + encoded.vq_loss).backward()
        memory = encoded.memory
        report.close(file, f"{prefix}recon_loss", recon, "single", "training: reconstruction loss")
        report.close(file, f"{prefix}embed_loss", encoded.vq_loss, "single", "training: codebook loss")
        # A key's bias shifts all scores of a row alike: its gradient is 0, and rounding noise is stored.
        keys = re.compile(r"\.attn(_1|\.\d+)\.k\.bias$")
        verify_gradients(file, prefix, model, names, report, kind="single gradient", skip=keys)
        frame += 1
    model.eval()


def verify_gradients(
    file: GoldenFile,
    prefix: str,
    model: torch.nn.Module,
    names: list[str],
    report: Report,
    *,
    kind: str,
    skip: re.Pattern[str],
) -> None:
    """Compare gradient norms of all parameters (in the order of ``names``), and whole gradients where stored."""
    gradients = {n: torch.zeros(()) if p.grad is None else p.grad.double() for n, p in model.named_parameters()}
    if unknown := set(names) - set(gradients):
        raise DataError(f"{file.path}: gradients of unknown parameters {sorted(unknown)[:3]}", "published names", "")
    if f"{prefix}grad_norm" in file:
        stored = file.tensor(f"{prefix}grad_norm").double()
        keep = torch.tensor([skip.search(name) is None for name in names])
        found = torch.stack([gradients[name].norm().cpu() for name in names])
        # Norms of 0 to 100: relative to their size, down to a thousandth of the largest.
        scale = stored.abs() + 1e-3 * stored[keep].max()
        error = float(((found - stored).abs() / scale)[keep].max())
        limit = TOLERANCE[f"{kind} norm"].of(report.dtype, 1.0)
        report.add(file, "training: gradient norms (relative)", error, limit, int(keep.sum()))
    for key in file.keys():  # noqa: SIM118 (not a dict)
        if key.startswith(f"{prefix}grad."):
            report.close(file, key, gradients[key[len(prefix) + 5 :]], kind, "training: gradients")
