"""How fast is a step? ``python -m ii_world_env.bench`` measures everything that a step does, on this machine."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ii_world_env.bench import stopwatch
from ii_world_env.bench.models import try_compiled, write_random
from ii_world_env.faces.options import DriveOptions
from ii_world_env.vector_env import IIWorldVectorEnv
from world_model.core.command import run
from world_model.core.errors import OptionError
from world_model.core.files import write_json
from world_model.core.runtime import choose_device
from world_model.core.table import Table, decimal

STAGES = ("forecast", "decode", "reward", "observation", "encode", "reset", "render")
LAST = ("forecaster alone, frames/s", "plans/s", "peak MiB")


@dataclass(frozen=True, kw_only=True)
class Bench(DriveOptions):
    """Measure environment steps per second: forecast, decoding, reward and observation together, after a warm-up.

    Every batch size is timed in turn with one float32 environment that is not compiled; the ratio of the two is what
    can be compared between noisy machines.

    Try:
      python -m ii_world_env.bench
      python -m ii_world_env.bench --preset base --device cuda --batches 1 8 64 256 --compile
      python -m ii_world_env.bench --world geometric --observation occupancy --threads 1
      python -m ii_world_env.bench --world transport --steps 100
    """

    preset: str | None = None
    """base, nano or tiny: a model of these sizes with random weights instead of a checkpoint."""
    split: str = "val"
    """Which scenes: train, val or all."""
    observation: str = "bev"
    """bev, occupancy, tokens, state, traffic, traffic_timed or package.module:Class."""
    batches: tuple[int, ...] = ()
    """Numbers of environments. If not given: 1 and 8, on a GPU 1, 8, 64 and 256."""
    steps: int = 16
    """Steps of one run."""
    runs: int = 5
    """Runs; the median is reported."""
    limit_s: float = 600.0
    """A batch size that would take longer than this is left out."""
    threads: int | None = None
    """Threads of torch. If not given: torch's own choice."""
    dtype: str = "auto"
    """auto, float32 or bfloat16."""
    compile: bool = False
    """Try torch.compile; where it fails, say why and go on without."""
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def __post_init__(self) -> None:
        self.check_counts("steps", "runs", "horizon", "threads")
        if min(self.batches, default=1) < 1 or not self.limit_s > 0:
            found = f"batches={self.batches}, limit_s={self.limit_s}"
            raise OptionError(found, "batches of at least 1, and some time", "give larger numbers")
        if self.preset is not None and self.checkpoint is not None:
            raise OptionError("preset= and checkpoint=", "one of them", "a preset has random weights: remove one")


def bench(options: Bench) -> dict[str, Any]:
    """Measure and print.

    Returns:
        Figures and circumstances; ``rows`` has one entry for each batch size that was measured.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    with ExitStack() as stack:
        checkpoint = options.checkpoint
        if options.preset is not None:
            checkpoint = write_random(options.preset, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        baseline = _make(options, checkpoint, 1, "float32")
        floor_mib = stopwatch.peak_mib(device)
        rows: list[dict[str, Any]] = []
        skipped: dict[str, str] = {}
        for batch in sorted(set(options.batches or ((1, 8) if device.type == "cpu" else (1, 8, 64, 256)))):
            found = _try_batch(options, checkpoint, batch, baseline, rows, floor_mib)
            if isinstance(found, str):
                print(f"batch {batch} left out: {found}")
                skipped[str(batch)] = found
            else:
                rows.append(found)
                print(f"batch {batch}: {found['steps_per_s']:.1f} steps/s, {found['ratio']:.2f} x baseline", flush=True)
        figures = {"rows": rows, "left_out": skipped, **circumstances(baseline, options)}
        baseline.close()
    print(markdown(figures))
    if options.out is not None:
        write_json(options.out, figures)
    return figures


def circumstances(envs: IIWorldVectorEnv, options: Bench) -> dict[str, Any]:
    """Machine, versions and what was driven: a figure without them means nothing."""
    device = stopwatch.device_of(envs)
    return {
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "device": str(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "model": _model(options),
        **{name: getattr(options, name) for name in ("observation", "action", "reward", "runs", "steps", "horizon")},
        "data_source": envs.scenes.source,
        "command": shlex.join(["python", "-m", "ii_world_env.bench", *sys.argv[1:]]),
    }


def markdown(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table with their circumstances, as in docs/results/speed.md."""
    rows = figures["rows"]
    head = ("world", "model", "dtype", "batch", "steps/s", "with resets", "x baseline", *STAGES, *LAST)
    cells = [
        [
            row["world"],
            figures["model"] if row["dtype"] != "-" else "-",
            row["dtype"],
            str(row["batch"]),
            f"{row['steps_per_s']:.1f}",
            f"{row['steps_per_s_with_resets']:.1f}",
            f"{row['ratio']:.2f}",
            *(decimal(row["milliseconds"].get(name), 1) for name in STAGES),
            decimal(row["latent_frames_per_s"], 1),
            f"{row['plans_per_s']:.1f}",
            f"{row['peak_mib']:.0f}",
        ]
        for row in rows
    ]
    load = "" if figures["load"] is None else f"; load average {figures['load']:.1f} at the end"
    base = f" ({statistics.median(row['baseline_steps_per_s'] for row in rows):.1f} steps/s)" if rows else ""
    notes = [
        f"Stages in ms for the whole batch (render: one environment). Observation {figures['observation']}, action "
        f"{figures['action']}, reward {figures['reward']}; median of {figures['runs']} x {figures['steps']} steps.",
        "Forecaster alone: latent rollout without decoding, reward or observation; at batch 1 the convention of the "
        "37 frames/s that I2-World reports for an RTX 4090.",
        f"Baseline: one environment, float32, not compiled, timed in turn with each row{base}.",
        *sorted({f"torch.compile: {row['compiled']}." for row in rows if row["compiled"]}),
        *(f"Batch {batch} left out: {why}." for batch, why in figures["left_out"].items()),
        f"{figures['hardware']}; device {figures['device']}; torch {figures['torch']}, {figures['threads']} threads; "
        f"Python {figures['python']}; data: {figures['data_source']}{load}.",
        f"`{figures['command']}`",
    ]
    return "\n".join(["", Table(head, cells).markdown(), "", *(f"- {note}" for note in notes)])


def _make(options: Bench, checkpoint: Path | None, batch: int, dtype: str) -> IIWorldVectorEnv:
    chosen = {**options.keywords(), "checkpoint": None if checkpoint is None else str(checkpoint)}
    others: dict[str, Any] = {"split": options.split, "observation": options.observation, "dtype": dtype}
    envs = IIWorldVectorEnv(batch, autoreset_mode="Disabled", **chosen, **others)
    envs.reset(seed=0)
    return envs


def _try_batch(
    options: Bench,
    checkpoint: Path | None,
    batch: int,
    baseline: IIWorldVectorEnv,
    before: list[dict[str, Any]],
    floor_mib: float,
) -> dict[str, Any] | str:
    """One row of the table, or why there is none."""
    device = stopwatch.device_of(baseline)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif before:
        last = before[-1]
        need, free = (last["peak_mib"] - floor_mib) * batch / last["batch"], _free_mib()
        if need > free:
            return f"needs about {need:.0f} MiB of memory, {free:.0f} are free"
    try:
        envs = _make(options, checkpoint, batch, options.dtype)
        row = _measure(options, envs, baseline)
        envs.close()
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return f"out of memory ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return row


def _measure(options: Bench, envs: IIWorldVectorEnv, baseline: IIWorldVectorEnv) -> dict[str, Any] | str:
    device, batch = stopwatch.device_of(envs), envs.num_envs
    compiled = ""
    if options.compile:
        compiled = try_compiled(envs.engine.world, lambda: (envs.reset(seed=0), stopwatch.step_s(envs, 1)))
    # Also the warm-up of both.
    once = stopwatch.step_s(baseline, 1) + stopwatch.step_s(envs, 1)
    expected = once * (options.steps * options.runs + 40)
    if expected > options.limit_s:
        return f"would take about {expected:.0f} s, more than --limit-s {options.limit_s:.0f}"
    pairs = []
    for number in range(options.runs):
        print(f"\r  batch {batch}: run {number + 1}/{options.runs} ", end="", file=sys.stderr, flush=True)
        pairs.append((stopwatch.step_s(envs, options.steps), stopwatch.step_s(baseline, options.steps)))
    print(file=sys.stderr)
    parts = stopwatch.stages(envs)
    own = statistics.median(pair[0] for pair in pairs)
    return {
        "world": envs.episodes.world_name,
        "batch": batch,
        "dtype": _dtype(envs),
        "compiled": compiled,
        "steps_per_s": batch / own,
        "steps_per_s_with_resets": batch * options.horizon / (own * options.horizon + parts["reset"]),
        "baseline_steps_per_s": 1 / statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(batch * base / mine for mine, base in pairs),
        "plans_per_s": stopwatch.plans_per_s(envs),
        "latent_frames_per_s": stopwatch.latent_frames_per_s(envs),
        "milliseconds": {name: round(1000 * value, 3) for name, value in parts.items()},
        "peak_mib": stopwatch.peak_mib(device),
    }


def _model(options: Bench) -> str:
    if options.preset is not None:
        return f"{options.preset}, random weights"
    return "bundled" if options.checkpoint is None else options.checkpoint.name


def _dtype(envs: IIWorldVectorEnv) -> str:
    """Number format of a world's weights."""
    world = envs.engine.world
    model = getattr(world, "forecaster", None) or getattr(world, "model", None)
    if model is None:
        return "-"
    kinds = {weight.dtype for weight in model.parameters()}
    return "bfloat16" if torch.bfloat16 in kinds else str(next(iter(kinds))).removeprefix("torch.")


def _free_mib() -> float:
    """Memory that the system could still give, or infinity where it does not say."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")


def _processor() -> str:
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores visible"


def main() -> None:
    """Command line."""
    run(Bench, bench, "python -m ii_world_env.bench")
