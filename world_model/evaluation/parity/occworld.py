"""OccWorld against golden files: tokenizer, teacher-forced pass, forecast, losses, gradients and scores."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.grid import NUM_CLASSES
from world_model.evaluation.metrics import Confusion
from world_model.evaluation.parity.comparison import Comparison
from world_model.evaluation.parity.recorded import Call, recorded
from world_model.evaluation.parity.report import TOLERANCE
from world_model.evaluation.parity.sizes import centred_grid, fill, occworld_config
from world_model.evaluation.parity.tokenizer import KEY_BIAS
from world_model.models.losses import lovasz_softmax
from world_model.models.occworld import OccWorld, OccWorldTokenizer
from world_model.models.occworld.model import code_loss, plan_loss

MEMBERS = {"Q": 0, "S": 0, "T": 1, "P": 1}
"""Queries before tokens along the first axis of a layer's output."""


def verify_occworld(check: Comparison) -> None:
    """Compare every array of an ``occworld_*.npz``."""
    _Comparison(check).run()


class _Comparison:
    """One file: model, inputs, and what is compared. Legend: B windows, N frames, W frames of a window, K codes."""

    def __init__(self, check: Comparison) -> None:
        self.check, file = check, check.file
        self.labels = file.tensor("labels")
        if self.labels.dim() != 5 or self.labels.max() >= NUM_CLASSES:
            raise DataError(f"{file.path}: labels {tuple(self.labels.shape)}", "(B, N, X, Y, Z), classes 0..17", "")
        for key in file.matches(r"cfg\."):
            file.array(key)
        weights = {key.removeprefix("sd."): check.read(key) for key in file.matches(r"sd\.")}
        config = occworld_config(weights, centred_grid(tuple(self.labels.shape[2:])))
        self.model = OccWorld(config).to(check.dtype).eval()
        fill(self.model, weights)
        self.moved, modes = check.read("rel_poses"), file.tensor("modes")
        self.command = modes.argmax(-1)
        self.poses = torch.cat((self.moved, modes.to(check.dtype)), -1)
        self.window, self.mid, self.end = (int(file.tensor(f"cfg.{name}")) for name in ("window", "mid", "end"))

    def run(self) -> None:
        with torch.no_grad():
            codes = self._tokenizer(self.model.vae, self.labels, "tok.")
            self._teacher_forced(codes)
            self._forecast(codes)
            if "crop.labels" in self.check.file:
                self._crop()
        self._training(codes)

    def _tokenizer(self, vae: OccWorldTokenizer, labels: Tensor, prefix: str) -> Tensor:
        """Compare codes and reconstruction of labels (B, N, X, Y, Z); returns the codes (B, N, h, w)."""
        check, first = self.check, labels[:1, 0]
        layers = check.file.matches(re.escape(prefix) + r"layer\.(.*)")
        with recorded(vae, {match[1] for match in layers.values()}) as calls:
            token = vae.token(vae.encode(first))
            logits = vae.decode_logits(token)
        frames = labels.flatten(0, 1)
        latent = vae.latents(frames)
        z = vae.vqvae.quant_conv(latent)
        codes = vae.vqvae.nearest(z.permute(0, 2, 3, 1))
        distance = (z.permute(0, 2, 3, 1)[..., None, :] - vae.vqvae.embedding.weight).square().sum(-1)
        two = distance.topk(2, largest=False).values
        # Of the cropped grid there is one window, whose axis some arrays lack.
        shape, width = labels.shape[:2] if prefix == "tok." else labels.shape[1:2], codes.shape[-1]
        outputs = {key: self._strided(calls[match[1]].outputs[0][0], width) for key, match in layers.items()}
        check.close("tokenizer: layer outputs", "layer", outputs)
        check.close("tokenizer: encoder output", "latent", {f"{prefix}latent": _apart(latent, shape)})
        check.close("tokenizer: after quant_conv", "latent", {f"{prefix}quant_in": z[:2]})
        check.equal("tokenizer: codes", f"{prefix}codes", _apart(codes, shape))
        margin = {f"{prefix}code_margin": _apart(two[..., 1] - two[..., 0], shape)}
        check.close("tokenizer: code margin", "layer", margin)
        check.close("tokenizer: after post_quant_conv", "latent", {f"{prefix}post_quant": token})
        check.close("tokenizer: class logits", "layer", {f"{prefix}logits_s": logits[0, ::5, ::5]})
        every = torch.cat([vae.decode_logits(vae.token(part)) for part in torch.split(codes, 1)])
        mean = _apart(every.flatten(1, 3).mean(1), shape)
        check.close("tokenizer: class logits", "layer", {f"{prefix}logits_mean": mean})
        found = self._labels("tokenizer: labels", f"{prefix}pred", _apart(every, labels.shape[:2]))
        if prefix == "tok.":
            self._scores("tok.", found[:, self.mid : self.end])
        return _apart(codes, labels.shape[:2])

    @staticmethod
    def _strided(value: Tensor, width: int) -> Tensor:
        """Maps that are wider than two latent sides are stored with a stride."""
        return value[..., ::3, ::3] if value.shape[-1] > 2 * width else value

    def _labels(self, stage: str, key: str, logits: Tensor) -> Tensor:
        """Compare labels; ties are those whose logits lie within the tolerance of the best, and that the file says are
        close. Returns ours."""
        found = logits.argmax(-1)
        if (given := self.check.file.optional(key)) is not None:
            best = logits.amax(-1)
            given = given.view(found.shape)
            gap = best - logits.gather(-1, given[..., None].long())[..., 0]
            tie = gap <= 2 * TOLERANCE["layer"].of(self.check.dtype, float(best.abs().max()))
            if (close := self.check.file.optional(f"{key}_close")) is not None:
                tie &= torch.zeros_like(tie).view(-1).index_fill(0, close.long(), True).view(tie.shape)
            self.check.equal(stage, key, found, tie)
        return found

    def _scores(self, prefix: str, found: Tensor) -> None:
        """Compare OccWorld's scores of labels (B, n, X, Y, Z) of the frames mid..end-1."""
        truth = self.labels[:, self.mid : self.end]
        totals = [Confusion.of(a.to(torch.uint8), b) for a, b in zip(found.unbind(1), truth.unbind(1), strict=True)]
        scores = {"miou": [100 * t.miou_occworld() for t in totals], "iou": [100 * t.iou() for t in totals]}
        values = {f"{prefix}{name}": torch.tensor(value, dtype=torch.float64) for name, value in scores.items()}
        self.check.close("scores", "score", values)

    def _teacher_forced(self, codes: Tensor) -> None:
        check, model, w = self.check, self.model, self.window
        layers = check.file.matches(r"tf\.layer\.(.*)\.([QTSP])$")
        with recorded(model.transformer, {match[1] for match in layers.values()}) as calls:
            features, displacement = model.features(codes[:, :w], self.poses[:, :w])
        outputs = {key: self._window_0(calls[match[1]], match[1], match[2]) for key, match in layers.items()}
        check.close("teacher forcing: layer outputs", "layer", outputs)
        tokens = model.pose_encoder(self.poses[:, :w])
        check.close("teacher forcing: pose tokens", "latent", {"tf.pose_tokens": tokens})
        pose_out = model.transformer(self._vectors(codes[:, :w]), tokens, self._places(w))[1]
        check.close("teacher forcing: poses", "latent", {"tf.pose_out": pose_out, "tf.pose_decoded": displacement})
        logits = _apart(model.logits(features.flatten(0, 1)), codes[:, :w].shape[:2])
        self._code_logits("teacher forcing", "tf.", logits)
        last = model.vae.decode_logits(model.vae.token(logits[:1, -1].argmax(1)))
        self._labels("teacher forcing: labels", "tf.pred_b0", last)
        self._losses("teacher forcing: losses", "tf.", logits, displacement, codes, 1, w + 1)

    def _window_0(self, call: Call, name: str, member: str) -> Tensor:
        """What a layer put out for one member of window 0."""
        out, windows = call.outputs[0], len(self.labels)
        if name.startswith(("temporal_attentions", "pose_attn")):
            return out[0].squeeze(-2) if out.dim() == 4 and out.shape[-2] == 1 else out[0]
        if name.startswith("pose_"):
            return out[MEMBERS[member], 0]
        return _apart(out, (2, windows, -1))[MEMBERS[member], 0]

    def _vectors(self, codes: Tensor) -> Tensor:
        return _apart(self.model.vae.vqvae.vectors(codes.flatten(0, 1)), codes.shape[:2])

    def _places(self, count: int) -> Tensor:
        return torch.arange(count).expand(len(self.labels), count)

    def _code_logits(self, stage: str, prefix: str, logits: Tensor) -> None:
        """Compare code logits (B, n, K, h, w)."""
        two = logits.topk(2, dim=2).values
        values = {f"{prefix}code_logits": logits, f"{prefix}code_gap": two[:, :, 0] - two[:, :, 1]}
        self.check.close(f"{stage}: code logits", "layer", values)
        self.check.equal(f"{stage}: codes", f"{prefix}codes", logits.argmax(2))

    def _losses(
        self, stage: str, prefix: str, logits: Tensor, displacement: Tensor, codes: Tensor, first: int, last: int
    ) -> Tensor:
        """Compare the losses against the frames first..last-1; returns the total."""
        ce = code_loss(logits, codes[:, first:last])
        plan = plan_loss(displacement, self.moved[:, first:last], self.command[:, first:last])
        total = ce + 0.1 * plan
        values = {"ce": ce, "pose_loss": plan, "total": total}
        self.check.close(stage, "loss", {f"{prefix}{name}": value for name, value in values.items()})
        return total

    def _forecast(self, codes: Tensor) -> None:
        """The loop: each step forecasts codes and a displacement, which the next one sees; one frame a step."""
        check, model, mid, end = self.check, self.model, self.mid, self.end
        window, poses = codes[:, :mid], self.poses[:, :mid]
        cache = torch.zeros(len(codes), *model.transformer.cache_shape, dtype=check.dtype)
        rows, logits, outs, displacements, fed = torch.arange(len(codes)), [], [], [], []
        begin = 0
        for i in range(mid, end):
            at = torch.arange(begin, i).expand(len(codes), i - begin)
            tokens = model.pose_encoder(poses[:, begin:])
            maps, out = model.transformer(self._vectors(window[:, begin:]), tokens, at, cache)
            logits.append(model.logits(maps[:, -1]))
            outs.append(out[:, -1])
            displacements.append(model.pose_decoder(out[:, -1]))
            chosen = displacements[-1][rows, self.command[:, i]]
            entry = torch.cat((chosen, self.poses[:, i, 2:]), -1)
            fed.append(model.pose_encoder(entry))
            window = torch.cat((window, logits[-1].argmax(1)[:, None]), 1)
            poses, begin = torch.cat((poses, entry[:, None]), 1), i
        code_logits, displacement = torch.stack(logits, 1), torch.stack(displacements, 1)
        self._code_logits("forecast", "ar.", code_logits)
        moved = poses[:, mid:, :2]
        values = {
            "pose_out": torch.stack(outs, 1), "pose_decoded": displacement, "displacement": moved,
            "path": moved.cumsum(1), "pose_tokens_fed_back": torch.stack(fed, 1),
        }  # fmt: skip
        check.close("forecast: poses", "latent", {f"ar.{name}": value for name, value in values.items()})
        decoded = model.vae.decode_logits(model.vae.token(window[:, mid:].flatten(0, 1)))
        decoded = _apart(decoded, (len(codes), -1))
        found = self._labels("forecast: labels", "ar.pred", decoded)
        check.close("forecast: class logits", "layer", {"ar.logits_s": decoded[0, -1, ::5, ::5]})
        self._losses("forecast: losses", "ar.", code_logits, displacement, codes, mid, end)
        self._scores("ar.", found)

    def _crop(self) -> None:
        """The same tokenizer on a grid that its levels do not divide."""
        labels = self.check.file.tensor("crop.labels")
        vae = OccWorldTokenizer(replace(self.model.vae.config, grid=centred_grid(tuple(labels.shape[2:]))))
        vae.load_state_dict(self.model.vae.state_dict())
        vae = vae.to(self.check.dtype).eval()
        self._tokenizer(vae, labels, "crop.")
        self.check.close("crop: codebook loss", "loss", {"crop.vq_loss": vae.reconstruct(labels.flatten(0, 1))[1]})

    def _training(self, codes: Tensor) -> None:
        """Losses and gradients of both stages."""
        check, model, labels = self.check, self.model, self.labels.flatten(0, 1)
        token, vq, _ = model.vae.reconstruct(labels)
        logits = model.vae.decode_logits(token).flatten(0, 3)
        ce = F.cross_entropy(logits, labels.flatten().long())
        lovasz = lovasz_softmax(logits.softmax(1), labels.flatten())
        total = 10 * ce + lovasz + vq
        losses = {"recon_ce": ce, "lovasz": lovasz, "vq": vq, "tokenizer_total": total}
        check.close("tokenizer: losses", "loss", {f"loss.{name}": value for name, value in losses.items()})
        self._gradients(total, "tokenizer", KEY_BIAS)
        model.vae.requires_grad_(False)
        w = self.window
        found, displacement = model(codes[:, :w], self.poses[:, :w])
        total = self._losses("teacher forcing: losses", "tf.", found, displacement, codes, 1, w + 1)
        self._gradients(total, "forecaster", r"(?!)")

    def _gradients(self, total: Tensor, part: str, skip: str) -> None:
        if f"grad.{part}_names" not in self.check.file:
            return
        self.model.zero_grad()
        torch.autograd.backward(total)
        names = self.check.file.strings(f"grad.{part}_names")
        self.check.gradients(f"grad.{part}.", self.model, names, "gradient", skip, norms=f"grad.{part}_norm")


def _apart(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The first axis as several."""
    return x.reshape(*shape, *x.shape[1:])
