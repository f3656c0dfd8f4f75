"""From checkpoints of the original to one of this package: what several files hold, matched, checked and written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world_model.checkpoints.checkpoint import (
    FORECASTER_FILE,
    OCCWORLD_FILE,
    OCCWORLD_TOKENIZER_FILE,
    SORA_TOKENIZER_FILE,
    SORA_TRANSFORMER_FILE,
    TOKENIZER_FILE,
    save_model,
    tokens_hash,
    weights_hash,
)
from world_model.checkpoints.i2world import (
    OCCWORLD_FORECASTER,
    OCCWORLD_TOKENIZER,
    SORA_TOKENIZER,
    SORA_TRANSFORMER,
    Match,
    PublishedModel,
    match,
    plain_weights,
    published_model,
    read_original,
    split_kinds,
)
from world_model.core.errors import CheckpointError, OptionError
from world_model.models.occsora import SoraTransformer, Trajectory

SAFE_META = ("epoch", "iter", "mmcv_version", "time", "exp_name", "global_batch_size", "global_seed", "model")
"""Entries of the trainers' metadata that go into the checkpoint's card."""
FILES = {
    "tokenizer": TOKENIZER_FILE,
    "forecaster": FORECASTER_FILE,
    SORA_TOKENIZER: SORA_TOKENIZER_FILE,
    SORA_TRANSFORMER: SORA_TRANSFORMER_FILE,
    OCCWORLD_TOKENIZER: OCCWORLD_TOKENIZER_FILE,
    OCCWORLD_FORECASTER: OCCWORLD_FILE,
}
"""What each model is written to; of each system the tokenizer comes first."""
SYSTEMS = {
    "I2-World": ("tokenizer", "forecaster"),
    "OccSora": (SORA_TOKENIZER, SORA_TRANSFORMER),
    "OccWorld": (OCCWORLD_TOKENIZER, OCCWORLD_FORECASTER),
}


@dataclass(kw_only=True)
class _Found:
    """The parts collected so far."""

    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    models: dict[str, PublishedModel] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    reports: list[tuple[Path, Match]] = field(default_factory=list)


def import_files(
    files: Sequence[Path],
    out: Path,
    *,
    data_source: str,
    trajectory: Trajectory = "path_metres",
    overwrite: bool = False,
) -> list[Path]:
    """Read, match, report, and write.

    Args:
        files: checkpoints of the original; what several of them hold must agree.
        out: folder for this package's checkpoint.
        data_source: what the weights were trained on.
        trajectory: what OccSora's transformer was told of a drive; its file does not say.
        overwrite: replace files that are there already.

    Returns:
        The files written.

    Raises:
        CheckpointError: a file cannot be read, or anything in it does not fit; nothing is written.
        OptionError: the output exists already.
        OutputError: it cannot be written.
    """
    found = _Found()
    for path in files:
        _collect(path, found)
    bad = [(path, report) for path, report in found.reports if not report.ok]
    if bad:
        raise CheckpointError(*_refusal(*bad[0]))
    systems = [name for name, kinds in SYSTEMS.items() if set(kinds) & set(found.weights)]
    if len(systems) > 1:
        raise CheckpointError(
            f"{' and '.join(map(str, files))} hold models of {' and '.join(systems)}",
            "a tokenizer and a world model of one system",
            "import each system into a folder of its own",
        )
    if SYSTEMS[systems[0]][0] not in found.weights:
        raise CheckpointError(
            f"{files[0]} holds a world model without its tokenizer",
            "a tokenizer, which the world model's tokens come from",
            "give the tokenizer's checkpoint first and this one with --world",
        )
    if isinstance(model := found.models.get(SORA_TRANSFORMER), SoraTransformer):
        model.config = replace(model.config, trajectory=trajectory)
    if OCCWORLD_FORECASTER in found.weights:
        _join_occworld(found)
    return _write(found, out, SYSTEMS[systems[0]], data_source, overwrite)


def _collect(path: Path, found: _Found) -> None:
    content, meta = read_original(path)
    parts = split_kinds(content)
    if not parts:
        raise CheckpointError(
            f"{path} holds none of the original's models; its first names are {list(content)[:4]}",
            "parameters named ...vq.embedding.weight (tokenizer) or ...pose_encoder.pose_time_embedding (world model); "
            "or OccSora's encoder_gpt... (tokenizer) or mlp_trag... (transformer); or OccWorld's vqvae... and "
            "transformer.temporal_attentions_en...",
            "give a checkpoint of I2-World's, OccSora's or OccWorld's tokenizer or world model",
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for kind, (prefix, entries) in parts.items():
        model = published_model(kind)
        report = match(kind, prefix, entries, model)
        print(f"{path.name}: {report.text()}")
        found.reports.append((path, report))
        if not report.ok:
            continue
        weights = plain_weights(entries, report)
        known = found.weights.setdefault(kind, weights)
        if different := [name for name in known if not torch.equal(known[name], weights[name])]:
            raise CheckpointError(
                f"{path} holds another {kind} than the file before: {len(different)} parameters differ, "
                f"first {different[0]}",
                f"the same {kind}, since the world model was trained on its tokens",
                "import the world model's file alone, which holds its own tokenizer",
            )
        found.models[kind] = model
        found.cards.setdefault(kind, {"file": path.name, "sha256": digest, "meta": _plain_meta(meta)})


def _join_occworld(found: _Found) -> None:
    """OccWorld's tokenizer lies in one file with its forecaster, as released."""
    vae = found.weights.pop(OCCWORLD_TOKENIZER)
    found.weights[OCCWORLD_FORECASTER] |= {f"vae.{name}": value for name, value in vae.items()}


def _plain_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """What of mmcv's metadata is short and plain."""
    values = {name: meta[name] for name in SAFE_META if name in meta}
    return {name: value if isinstance(value, int | float) else str(value)[:200] for name, value in values.items()}


def _refusal(path: Path, report: Match) -> tuple[str, str, str]:
    counts = (
        f"{len(report.missing)} missing, {len(report.unexpected)} unexpected, "
        f"{len(report.wrong)} of another shape or value"
    )
    first = next(iter((*report.wrong, *report.missing, *report.unexpected)))
    total = len(report.matched) + len(report.missing) + len(report.wrong)
    remedy = (
        "give the released checkpoint (of I2-World that of the 4-frame configuration); the list above names every "
        "parameter in question"
    )
    if not report.missing and not report.unexpected and any(": shape " in what for what in report.wrong):
        remedy = "this is a model of another size: only the published sizes can be imported"
    found = f"{path}: the {report.kind} does not fit ({counts}; first {first}); nothing was written"
    return found, f"the {total} parameters of the published {report.kind}, and no others", remedy


def _write(found: _Found, out: Path, kinds: tuple[str, str], data_source: str, overwrite: bool) -> list[Path]:
    paths = {kind: out / FILES[kind] for kind in kinds if kind in found.weights}
    if not overwrite and (there := [str(path) for path in paths.values() if path.exists()]):
        raise OptionError(f"{', '.join(there)} exists", "a new folder", "choose another --out, or give --overwrite")
    first = found.weights.get(kinds[0], {})
    tokens = tokens_hash(first) if kinds[0] == "tokenizer" else weights_hash(first)
    for kind, path in paths.items():
        card = {"data_source": data_source, "imported": found.cards[kind]}
        card |= {"tokens": tokens} if kind == kinds[1] and first else {}
        save_model(path, found.models[kind], found.weights[kind], card)
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if kinds[1] not in paths:
        print("no world model yet: give its checkpoint with --world for a folder that gym.make can read")
    return list(paths.values())
