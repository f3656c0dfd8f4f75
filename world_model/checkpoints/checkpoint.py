"""Save and load trained models: safetensors with the configuration inside.

A checkpoint is a folder that holds ``geometric.safetensors``, or ``tokenizer.safetensors`` and
``forecaster.safetensors``, or all three; each is complete in itself: weights, configuration, format version, and the
fingerprint of the data it was trained on. Nothing in it can execute.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from world_model.core.errors import CheckpointError, ConfigError
from world_model.core.files import atomic_write, cause_of, remedy_for
from world_model.core.grid import VoxelGrid
from world_model.core.runtime import plain_defaults
from world_model.models.forecaster import Forecaster, ForecasterConfig
from world_model.models.geometric import GeometricConfig, GeometricForecaster
from world_model.models.tokenizer import Tokenizer, TokenizerConfig

VERSION = 1
TOKENIZER_FILE = "tokenizer.safetensors"
FORECASTER_FILE = "forecaster.safetensors"
GEOMETRIC_FILE = "geometric.safetensors"
DRIVER_FILE = "driver.safetensors"
OCCWORLD_TOKENIZER_FILE = "occworld_tokenizer.safetensors"
OCCWORLD_FILE = "occworld.safetensors"
SORA_TOKENIZER_FILE = "occsora_tokenizer.safetensors"
SORA_TRANSFORMER_FILE = "occsora_transformer.safetensors"
KINDS = {
    TOKENIZER_FILE: Tokenizer.__name__,
    FORECASTER_FILE: Forecaster.__name__,
    GEOMETRIC_FILE: GeometricForecaster.__name__,
    DRIVER_FILE: "DriverNet",
    OCCWORLD_TOKENIZER_FILE: "OccWorldTokenizer",
    OCCWORLD_FILE: "OccWorld",
    SORA_TOKENIZER_FILE: "SoraTokenizer",
    SORA_TRANSFORMER_FILE: "SoraTransformer",
}
"""Which model each file of a checkpoint holds."""
BUNDLED = {
    OCCWORLD_FILE: "nano_occworld",
    SORA_TOKENIZER_FILE: "nano_occsora",
    SORA_TRANSFORMER_FILE: "nano_occsora",
}
"""Folders of bundled files that do not lie in ``assets/nano``."""


class _DataclassInstance(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Config = TypeVar("Config", bound=_DataclassInstance)


def bundled_path(name: str = GEOMETRIC_FILE) -> Path:
    """Folder of the checkpoint that ships with the package and holds a file of this name."""
    return Path(__file__).parents[1] / "assets" / BUNDLED.get(name, "nano")


def stamp_of(path: Path, *names: str) -> tuple[int, ...]:
    """When the files of a checkpoint were written: one that is trained anew is read anew."""
    files = [path / name for name in names] if path.is_dir() else [path]
    return tuple(f.stat().st_mtime_ns for f in files if f.exists())


def config_to_json(config: _DataclassInstance) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def config_from_json(kind: type[Config], values: dict[str, Any]) -> Config:
    """A configuration from plain JSON values.

    Raises:
        CheckpointError: fields are missing or unknown.
    """
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    if isinstance(values.get("grid"), dict):
        # The grid's own fields are checked by its constructor.
        grid: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["grid"].items()}
        values["grid"] = VoxelGrid(**grid)
    known = {f.name for f in dataclasses.fields(kind)}
    if "faithful" in known and "faithful" not in values:
        # Checkpoints of version 0.1 know the switch by its first part, or not at all.
        values["faithful"] = values.pop("align_corner", False)
    if "ground_relative" in known:
        values.setdefault("ground_relative", False)
    if set(values) != known:
        raise CheckpointError(
            f"configuration fields {sorted(set(values) ^ known)} do not match",
            f"the fields of {kind.__name__} in this version",
            "use the version of the package that wrote the checkpoint, or train again",
        )
    try:
        return kind(**values)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"the configuration is not valid ({error})", f"a valid {kind.__name__}") from error


def tokens_hash(weights: dict[str, Tensor]) -> str:
    """Short hash of the part of a tokenizer's state dict that makes tokens: all but the decoder.

    It ties token caches and forecasters to the tokenizer whose tokens they hold; refining the decoder keeps it.
    """
    return weights_hash({name: value for name, value in weights.items() if not name.startswith("decoder.")})


def weights_hash(weights: dict[str, Tensor]) -> str:
    """Short hash of a state dict: identifies a trained model."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_model(
    path: str | Path,
    model: nn.Module,
    weights: dict[str, Tensor],
    card: dict[str, Any],
) -> Path:
    """Write weights with their configuration, atomically; returns the path.

    Args:
        path: the file.
        model: a model with a ``config`` dataclass.
        weights: the state dict to store (the averaged one, say).
        card: plain JSON values: data, figures, recipe.
    """
    kind, config = type(model).__name__, config_to_json(model.config)  # type: ignore[arg-type]  # see above
    meta = {"format": "iiworld", "version": VERSION, "kind": kind, "config": config, "card": card}
    plain = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    with atomic_write(path) as stream:
        stream.write(serialize(plain, metadata={"iiworld": json.dumps(meta)}))
    return Path(path)


def copy_model(source: Path, out: Path, name: str) -> None:
    """Copy one file of a checkpoint into another folder, atomically.

    Args:
        source: the file, or the folder that it lies in.
        out: the other folder.
        name: of the file.
    """
    source = source / name if source.is_dir() else source
    if source.resolve() != (out / name).resolve():
        with open(source, "rb") as stream, atomic_write(out / name) as target:
            shutil.copyfileobj(stream, target)


def _read(path: Path, kind: str, with_weights: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    token_files = f"{TOKENIZER_FILE} and {FORECASTER_FILE}"
    own = next((file for file, name in KINDS.items() if name == kind), token_files)
    files = token_files if own in (TOKENIZER_FILE, FORECASTER_FILE) else own
    remedy = f"give a folder that the training commands wrote (it holds {files})"
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}", f"a {kind} in safetensors", remedy)
    try:
        with safe_open(str(path), framework="pt") as archive:
            meta = json.loads((archive.metadata() or {}).get("iiworld", "null"))
            names = archive.keys() if with_weights else ()
            weights = {name: archive.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        found = f"{path} is damaged ({cause_of(path, error)})"
        raise CheckpointError(found, "an intact safetensors file", remedy_for(error, remedy)) from error
    if not isinstance(meta, dict) or meta.get("format") != "iiworld":
        raise CheckpointError(f"{path} carries no iiworld metadata", f"a {kind} written by this package", remedy)
    if meta["version"] != VERSION or meta["kind"] != kind:
        found = f"{path} holds a {meta['kind']}, format version {meta['version']}"
        raise CheckpointError(found, f"a {kind}, format version {VERSION}", remedy)
    return meta, weights


def _file(path: str | Path | None, name: str) -> Path:
    path = Path(path) if path is not None else bundled_path(name)
    return path / name if path.is_dir() or not path.suffix else path


def read_card(path: str | Path | None, name: str) -> dict[str, Any]:
    """What a checkpoint says about itself, without its weights.

    Args:
        path: the file, or the folder that it lies in; None is the bundled one.
        name: of the file, one of the three.

    Raises:
        CheckpointError: missing, damaged or of another version.
    """
    card: dict[str, Any] = _read(_file(path, name), KINDS[name], with_weights=False)[0]["card"]
    return card


def _fill(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in weights.items()}
    if own != given:
        wrong = sorted(k for k in {*own, *given} if own.get(k) != given.get(k))
        raise CheckpointError(
            f"{path}: {len(wrong)} parameters do not fit its own configuration, first {wrong[0]}: "
            f"{given.get(wrong[0], 'missing')}",
            str(own.get(wrong[0], "no such parameter")),
            "fetch or train the checkpoint again",
        )
    if bad := next((k for k, v in weights.items() if v.is_floating_point() and not torch.isfinite(v).all()), None):
        raise CheckpointError(f"{path}: {bad} holds values that are not finite", "finite weights", "train it again")
    model.load_state_dict(weights)


Model = TypeVar("Model", bound=nn.Module)


def load_model(
    kind: type[Model],
    config: type[Any],
    name: str,
    path: str | Path | None,
    device: torch.device | str,
) -> tuple[Model, dict[str, Any], dict[str, Tensor]]:
    """A model in evaluation mode, its card with the hash of its weights, and the weights.

    Args:
        kind: class of the model, which is made from its configuration alone.
        config: class of the configuration.
        name: of the file.
        path: the file, or the folder that it lies in; None is the bundled one.
        device: where the model is put.

    Raises:
        CheckpointError: missing, damaged, of another version, or not fitting its own configuration.
    """
    path = _file(path, name)
    meta, weights = _read(path, kind.__name__)
    with plain_defaults():
        model = kind(config_from_json(config, meta["config"]))
    _fill(model, weights, path)
    return model.to(device).eval(), {**meta["card"], "weights": weights_hash(weights)}, weights


def load_tokenizer(
    path: str | Path | None = None, device: torch.device | str = "cpu"
) -> tuple[Tokenizer, dict[str, Any]]:
    """Read a tokenizer (a file, or a folder that holds one; None is the bundled one) and its card.

    Raises:
        CheckpointError: missing, damaged, of another version, or not fitting its own configuration.
    """
    model, card, weights = load_model(Tokenizer, TokenizerConfig, TOKENIZER_FILE, path, device)
    return model, {**card, "tokens": tokens_hash(weights)}


def load_forecaster(
    path: str | Path | None = None, device: torch.device | str = "cpu"
) -> tuple[Forecaster, dict[str, Any]]:
    """Read a forecaster and its card, as `load_tokenizer`."""
    return load_model(Forecaster, ForecasterConfig, FORECASTER_FILE, path, device)[:2]


def load_geometric(
    path: str | Path | None = None, device: torch.device | str = "cpu"
) -> tuple[GeometricForecaster, dict[str, Any]]:
    """Read a geometry-first forecaster and its card, as `load_tokenizer`."""
    return load_model(GeometricForecaster, GeometricConfig, GEOMETRIC_FILE, path, device)[:2]
