"""Train a world model from an Occ3D folder: index, tokenizer, tokens, forecaster, scores.

    python examples/train_world_model.py --data-root /data/nuscenes --preset base      (real data, a GPU)
    python examples/train_world_model.py                                               (makes synthetic scenes first)

The folder holds nuScenes tables and Occ3D labels (gts/). Each step below is one command that you can also type
yourself; each goes on where it stopped, so a killed run is repeated with the same line.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Args:
    """From an Occ3D folder to a scored world model."""

    data_root: Path | None = None
    """Folder with nuScenes tables and gts/. If not given: synthetic scenes are made in OUT/data."""
    preset: Literal["base", "nano"] = "nano"
    """base is the published model (for a GPU), nano trains on two CPU cores."""
    scenes: int = 20
    """Synthetic scenes to make when there is no folder."""
    tokenizer_iterations: int = 1_500
    """Steps of the tokenizer; the bundled checkpoint took more (see its model card). 0 takes the preset's."""
    forecaster_iterations: int = 500
    """Steps of the forecaster; 0 takes the preset's."""
    max_windows: int = 40
    """Score at most so many windows."""
    workers: int = 2
    """Processes that make synthetic scenes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    out: Path = Path("outputs/train_world_model")
    """Folder of everything made here."""
    short: bool = False
    """Two scenes and two steps of each training only, to try it out."""


def run(command: str, *arguments: object) -> None:
    """Run ``python -m command`` and show the line that does the same in a terminal."""
    line = [sys.executable, "-m", command, *map(str, arguments)]
    print(f"\n$ python {shlex.join(line[1:])}", flush=True)
    begin = time.perf_counter()
    if subprocess.run(line, check=False).returncode != 0:
        sys.exit(f"{command} stopped; once the cause is gone, the same command goes on where it stopped")
    print(f"  ({time.perf_counter() - begin:.0f} s)", flush=True)


def main(args: Args) -> None:
    scenes, windows = args.scenes, args.max_windows
    tokenizer_steps, forecaster_steps = args.tokenizer_iterations, args.forecaster_iterations
    if args.short:
        scenes, windows, tokenizer_steps, forecaster_steps = 2, 2, 2, 2
    data = args.data_root or args.out / "data"

    # 0. Data: synthetic scenes in the layout of nuScenes and Occ3D, unless you have the real ones.
    if args.data_root is None:
        run("world_model.make_synthetic", "--out", data, "--scenes", scenes, "--workers", args.workers)

    # 1. Index: poses, times, commands, boxes, paths in one small file. All that follows reads only it and the labels.
    index = args.out / "iiworld_index.npz"
    run("world_model.prepare", "--data-root", data, "--out", index)

    # 2. Tokenizer: labels <-> tokens.
    tokenizer = args.out / "tokenizer"
    where = ("--index", index, "--device", args.device)
    steps = ("--preset", args.preset, "--iterations", tokenizer_steps)
    run("world_model.train_tokenizer", *where, "--out", tokenizer, *steps)

    # 3. Tokens of the training split, once: the forecaster reads them many times.
    tokens = args.out / "tokens"
    run("world_model.encode_tokens", *where, "--split", "train", "--tokenizer", tokenizer, "--out", tokens)

    # 4. Forecaster: tokens and ego motion -> the next tokens. Puts the tokenizer beside it: a whole checkpoint.
    model = args.out / "checkpoint"
    inputs = ("--tokens", tokens, "--tokenizer", tokenizer)
    steps = ("--preset", args.preset, "--iterations", forecaster_steps)
    run("world_model.train_forecaster", *where, *inputs, "--out", model, *steps)

    # 5. Scores on the held-out split, beside the baselines.
    what = ("--max-windows", windows, "--what", *(["forecasting"] if args.short else ["reconstruction", "forecasting"]))
    run("world_model.evaluate", *where, "--checkpoint", model, "--out", args.out / "evaluation", *what)

    print(f"\ncheckpoint: {model.resolve()}\nscores:     {(args.out / 'evaluation' / 'results.md').resolve()}")
    print(f'drive in it: gym.make("IIWorld-nuScenes-v0", checkpoint="{model}", index="{index}")')


if __name__ == "__main__":
    main(tyro.cli(Args))
