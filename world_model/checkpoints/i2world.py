"""Released checkpoints of I2-World, OccWorld and OccSora: read without executing anything, never half taken over.

The original of I2-World saves with mmcv: a dictionary with ``state_dict`` and ``meta``, parameters named with or
without ``module.``, the tokenizer inside the world model's file or not, averaged weights in files of their own. OccSora
saves weights, averaged weights (the ones to use), and its options as an `argparse.Namespace`, for which an inert
stand-in is read. Parameter names of this package are the originals', so matching is by name and shape alone.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world_model.core.errors import CheckpointError
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster import base as base_forecaster
from world_model.models.occsora import SoraTokenizer, SoraTransformer
from world_model.models.occsora import base as base_occsora
from world_model.models.occworld import OccWorld, OccWorldTokenizer
from world_model.models.occworld import base as base_occworld
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import base as base_tokenizer

PublishedModel = Tokenizer | Forecaster | SoraTokenizer | SoraTransformer | OccWorldTokenizer | OccWorld
WRAPPERS = ("state_dict", "ema_state_dict", "model_state_dict", "model", "ema")
"""Names under which a file may keep its state dict."""
SORA_TOKENIZER, SORA_TRANSFORMER = "OccSora tokenizer", "OccSora transformer"
OCCWORLD_TOKENIZER, OCCWORLD_FORECASTER = "OccWorld tokenizer", "OccWorld forecaster"
ANCHORS = {
    "tokenizer": "vq.embedding.weight",
    "forecaster": "pose_encoder.pose_time_embedding",
    SORA_TOKENIZER: "encoder_gpt.conv_last.conv.weight",
    SORA_TRANSFORMER: "mlp_trag.fc1.weight",
    OCCWORLD_FORECASTER: "transformer.temporal_attentions_en.0.0.0.in_proj_weight",
    OCCWORLD_TOKENIZER: "vqvae.embedding.weight",
}
"""A parameter that every model of a kind has: what stands before its name is the kind's prefix."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """How a state dict fits a model.

    Attributes:
        kind: which model, one of `ANCHORS`.
        prefix: what stood before the parameter names in the file.
        matched: names that fit.
        missing: names that the model has and the file has not.
        unexpected: names that the file has and the model has not.
        wrong: names with another shape or no numbers, with what was found and expected.
        aside: the raw copies that mmcv keeps beside averaged weights; they are not needed.
    """

    kind: str
    prefix: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong: tuple[str, ...]
    aside: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.wrong)

    def text(self) -> str:
        """The full report."""
        prefix = f" (after the prefix {self.prefix!r})" if self.prefix else ""
        lines = [f"{self.kind}{prefix}: {len(self.matched)} parameters matched"]
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape or value", self.wrong),
        ):
            lines += [f"  {len(names)} {title}"] + [f"    {name}" for name in names]
        lines += [f"  {len(self.aside)} raw copies beside averaged weights, set aside"] if self.aside else []
        return "\n".join(lines)


class Options:
    """Stands for the `argparse.Namespace` in a file: keeps its plain values, and does nothing else."""

    def __setstate__(self, state: object) -> None:
        plain = state.items() if isinstance(state, dict) else ()
        self.values = {str(k): v for k, v in plain if v is None or isinstance(v, str | int | float | bool)}


def published_model(kind: str) -> PublishedModel:
    """The model that a published checkpoint fits: published sizes, ``faithful=True`` where there is such a switch.

    Those of OccSora and OccWorld have no memory of their own: only their names and shapes are asked for.
    """
    if kind in (OCCWORLD_TOKENIZER, OCCWORLD_FORECASTER):
        with torch.device("meta"):
            whole = OccWorld(base_occworld())
        vae = whole.vae
        del whole.vae  # it is a kind of its own
        return vae if kind == OCCWORLD_TOKENIZER else whole
    if kind in (SORA_TOKENIZER, SORA_TRANSFORMER):
        tokenizer, transformer = base_occsora()
        with torch.device("meta"):
            return SoraTokenizer(tokenizer) if kind == SORA_TOKENIZER else SoraTransformer(transformer)
    if kind == "tokenizer":
        return Tokenizer(replace(base_tokenizer(), faithful=True))
    return Forecaster(replace(base_forecaster(), faithful=True))


def read_original(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dict and metadata of a ``.pth`` file, without executing anything in it.

    Raises:
        CheckpointError: missing, damaged, holding more than tensors and plain values, or no state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"no file {path}", "a checkpoint of the original (.pth)", "check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol
            with torch.serialization.safe_globals([(Options, "argparse.Namespace")]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise CheckpointError(
                f"{path} is no checkpoint, or a damaged one; nothing was executed",
                "a file written by torch.save",
                "copy or download it again, and see that it is no error page and no pointer of Git LFS",
            ) from error
        raise CheckpointError(
            f"{path} holds more than tensors: it asks for {asked[1]}; nothing was executed",
            "a state dict, with mmcv's meta or without",
            "if you trust the file, save its tensors alone, where it was made: "
            "torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW_FILE)",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} cannot be read ({_first_line(error)})", "a file written by torch.save", "copy or download it again"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}", "a state dict, or a dict with one", "")
    found = [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
    inner = next(iter(found), content)
    if ANCHORS[SORA_TRANSFORMER] in inner:
        inner = found[-1] if found else inner  # its averaged weights
    if not any(isinstance(value, Tensor) for value in inner.values()):
        raise CheckpointError(
            f"{path} holds no tensors under {list(content)[:6]}",
            f"a state dict, or one under {', '.join(WRAPPERS)}",
            "",
        )
    meta = content.get("meta")
    if isinstance(options := content.get("args"), Options):
        meta = vars(options).get("values")
    return {str(k): v for k, v in inner.items()}, dict(meta) if isinstance(meta, Mapping) else {}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def split_kinds(content: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Which entries of a file belong to the tokenizer and which to the forecaster.

    Returns:
        For each kind that the file holds: the prefix of its names, and its entries without it.
    """
    prefixes: dict[str, str] = {}
    for kind, anchor in ANCHORS.items():
        if kind == OCCWORLD_TOKENIZER and SORA_TOKENIZER in prefixes:
            continue  # it has a parameter of that name, too
        # The raw copies of averaged weights have no dots, so they are no anchors.
        found = [key[: -len(anchor)] for key in content if key == anchor or key.endswith("." + anchor)]
        if len(found) > 1:
            raise CheckpointError(
                f"{len(found)} models of the kind {kind}, under {sorted(found)}", "one", "save one of them alone"
            )
        if found:
            prefixes[kind] = found[0]
    owner = sorted(prefixes.items(), key=lambda item: -len(item[1]))
    parts: dict[str, tuple[str, dict[str, Any]]] = {kind: (prefix, {}) for kind, prefix in prefixes.items()}
    for key, value in content.items():
        kind = next((k for k, prefix in owner if key.startswith(prefix)), owner[-1][0] if owner else "")
        if kind:
            parts[kind][1][key.removeprefix(prefixes[kind])] = value
    return parts


def match(kind: str, prefix: str, content: Mapping[str, Any], model: PublishedModel) -> Match:
    """Compare the names and shapes of a part of a file with a model's."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    raw = {f"ema_{name}".replace(".", "_") for name in expected}
    aside = tuple(name for name in content if name in raw or name.removeprefix("module.") in raw)
    given = {name: value for name, value in content.items() if name not in aside}
    wrong = []
    for name in expected.keys() & given.keys():
        value = given[name]
        if not isinstance(value, Tensor):
            wrong.append(f"{name}: a {type(value).__name__} instead of a tensor")
        elif tuple(value.shape) != expected[name]:
            wrong.append(f"{name}: shape {tuple(value.shape)} instead of {expected[name]}")
        elif value.is_floating_point() and not bool(torch.isfinite(value).all()):
            wrong.append(f"{name}: values that are not finite")
    bad = {text.split(":")[0] for text in wrong}
    return Match(
        kind=kind,
        prefix=prefix,
        matched=tuple(name for name in expected if name in given and name not in bad),
        missing=tuple(name for name in expected if name not in given),
        unexpected=tuple(name for name in given if name not in expected),
        wrong=tuple(sorted(wrong)),
        aside=aside,
    )


def plain_weights(content: Mapping[str, Any], found: Match) -> dict[str, Tensor]:
    """The matched entries as tensors of their own, floating point ones in float32."""
    values = {name: content[name].detach() for name in found.matched}
    return {name: (v.float() if v.is_floating_point() else v).clone().contiguous() for name, v in values.items()}
