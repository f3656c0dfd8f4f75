"""How long, and in how much memory, `python -m world_model.prepare` reads a data set as large as nuScenes trainval.

The tables are generated: as many rows as the real ones have, with the same columns, in the same text layout, full of
random tokens and a drive at constant speed. Every label file is a hard link to one file of the real size. Nothing in
them is real; only time and memory mean anything.

    python benchmarks/prepare.py --work /tmp/prepare_benchmark
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

REAL_SCENES, REAL_KEYFRAMES, REAL_SWEEPS, REAL_BOXES, REAL_INSTANCES = 850, 34_149, 2_631_083, 1_166_187, 64_386
"""Rows of the tables of v1.0-trainval: scene, sample, sample_data and ego_pose, sample_annotation, instance."""
CHANNELS = (
    *("LIDAR_TOP", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT"),
    *("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT"),
)
ROTATION = [0.5720320396729045, -0.0016977771610471074, 0.011798001930183783, -0.8201446642457809]
Rows = Iterator[dict[str, object]]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Generate tables and label files of the size of nuScenes trainval, prepare them, and print time and memory."""

    work: Path
    """Folder for the generated data (2.7 GB for 850 scenes); it must not exist yet, and is deleted at the end."""
    scenes: int = REAL_SCENES
    """Number of scenes; all tables shrink and grow with it."""
    keep: bool = False
    """Do not delete the generated data."""
    options: tuple[str, ...] = ()
    """Further options for prepare, e.g. --options=--check-labels."""


class Writer:
    """Generates one data set; every table is written row by row."""

    def __init__(self, root: Path, scenes: int) -> None:
        self.root, self.scenes = root, scenes
        self.rng = np.random.default_rng(0)
        share = scenes / REAL_SCENES
        self.frames = round(REAL_KEYFRAMES * share)
        self.boxes, self.instances = round(REAL_BOXES * share), round(REAL_INSTANCES * share)
        self.sweeps = self.tokens(max(round(REAL_SWEEPS * share), self.frames * len(CHANNELS)))
        # Scenes differ by a frame or two in length, as the real ones do.
        self.start = np.linspace(0, self.frames, scenes + 1).astype(int).tolist()
        self.sample, self.scene = self.tokens(self.frames), self.tokens(scenes)
        self.names = [f"scene-{s:04d}" for s in range(scenes)]

    def tokens(self, count: int) -> list[str]:
        """Random 32-digit tokens."""
        text = self.rng.bytes(16 * count).hex()
        return [text[i : i + 32] for i in range(0, len(text), 32)]

    def table(self, name: str, rows: Iterable[dict[str, object]]) -> None:
        """Write a table as the released ones are laid out: one column a line."""
        path = self.root / "v1.0-trainval" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as stream:
            before = "[\n"
            for row in rows:
                stream.write(before + json.dumps(row, indent=0))
                before = ",\n"
            stream.write("\n]\n")

    def write(self) -> None:
        """All tables, splits and label files."""
        sensors, mounts, category = self.tokens(len(CHANNELS)), self.tokens(len(CHANNELS)), self.tokens(1)[0]
        pose = {"translation": [0.9, 0.0, 1.8], "rotation": [1.0, 0.0, 0.0, 0.0], "camera_intrinsic": []}
        self.table("sensor", (dict(token=t, channel=c, modality="x") for t, c in zip(sensors, CHANNELS)))
        self.table("calibrated_sensor", (dict(token=t, sensor_token=s, **pose) for t, s in zip(mounts, sensors)))
        self.table("category", [dict(token=category, name="vehicle.car", description="")])
        self.table("scene", self.scene_rows())
        self.table("sample", self.sample_rows())
        self.table("sample_data", self.data_rows(mounts))
        self.table("ego_pose", self.pose_rows())
        instances = self.tokens(self.instances)
        ends = dict(nbr_annotations=1, first_annotation_token="", last_annotation_token="")
        self.table("instance", (dict(token=t, category_token=category, **ends) for t in instances))
        self.table("sample_annotation", self.annotation_rows(instances))
        train = round(self.scenes * 700 / 850)
        (self.root / "splits.json").write_text(json.dumps({"train": self.names[:train], "val": self.names[train:]}))
        (self.root / "synthetic.json").write_text("{}")
        self.write_labels()

    def scene_rows(self) -> Rows:
        """Scenes with their first and last frames."""
        for token, name, first, end in zip(self.scene, self.names, self.start, self.start[1:]):
            yield dict(
                token=token, log_token="", nbr_samples=end - first, first_sample_token=self.sample[first],
                last_sample_token=self.sample[end - 1], name=name, description="generated",
            )  # fmt: skip

    def time_us(self, frame: int) -> int:
        """Timestamp of a keyframe."""
        return 1_500_000_000_000_000 + frame * 500_000

    def sample_rows(self) -> Rows:
        """Keyframes, chained within a scene."""
        for token, first, end in zip(self.scene, self.start, self.start[1:]):
            for f in range(first, end):
                before, after = self.sample[f - 1] if f > first else "", self.sample[f + 1] if f + 1 < end else ""
                yield dict(token=self.sample[f], timestamp=self.time_us(f), prev=before, next=after, scene_token=token)

    def sweep_place(self, i: int) -> tuple[int, int]:
        """The keyframe of a sweep, and its number among the sweeps of this keyframe."""
        per_frame = len(self.sweeps) / self.frames
        frame = min(int(i / per_frame), self.frames - 1)
        return frame, i - math.ceil(frame * per_frame)

    def data_rows(self, mounts: list[str]) -> Rows:
        """Sweeps: the first twelve of a keyframe are its own, one of each sensor; others lie in between."""
        chain = ["", *self.sweeps, ""]
        for i, token in enumerate(self.sweeps):
            frame, number = self.sweep_place(i)
            channel = number % len(CHANNELS)
            yield dict(
                token=token, sample_token=self.sample[frame], ego_pose_token=token,
                calibrated_sensor_token=mounts[channel], timestamp=self.time_us(frame) + number, fileformat="jpg",
                is_key_frame=0 <= number < len(CHANNELS), height=900, width=1600,
                filename=f"sweeps/{CHANNELS[channel]}/n015-2018-07-24-11-22-45+0800__{token}.jpg",
                prev=chain[i], next=chain[i + 2],
            )  # fmt: skip

    def pose_rows(self) -> Rows:
        """One ego pose a sweep."""
        for i, token in enumerate(self.sweeps):
            place = [411.3039349319818 + 0.05 * i, 1180.8903791765097, 0.0]
            yield dict(
                token=token, timestamp=self.time_us(self.sweep_place(i)[0]), rotation=ROTATION, translation=place
            )

    def annotation_rows(self, instances: list[str]) -> Rows:
        """Objects in consecutive frames of one scene, all at the same speed."""
        tokens, length = self.tokens(self.boxes), self.boxes / self.instances
        for i, token in enumerate(tokens):
            owner = min(int(i / length), self.instances - 1)
            first, last = math.ceil(owner * length), min(math.ceil((owner + 1) * length), self.boxes) - 1
            scene = owner % self.scenes
            room = max(self.start[scene + 1] - self.start[scene] - (last - first + 1), 0)
            frame = min(self.start[scene] + (owner // self.scenes) % (room + 1) + i - first, self.frames - 1)
            yield dict(
                token=token, sample_token=self.sample[frame], instance_token=instances[owner], visibility_token="4",
                attribute_tokens=["cb5118da1ab342aa947717dc53544259"], size=[0.621, 0.669, 1.642],
                translation=[373.25 + 0.1 * i, 1130.419, 0.8 + owner], rotation=ROTATION,
                prev=tokens[i - 1] if i > first else "", next=tokens[i + 1] if i < last else "", num_lidar_pts=1,
                num_radar_pts=0,
            )  # fmt: skip

    def write_labels(self) -> None:
        """One file of labels, linked as often as there are keyframes."""
        labels = np.full((200, 200, 16), 17, np.uint8)
        labels[:, :, 2] = 11
        i, j, k = (self.rng.integers(low, high, 24_000) for low, high in ((0, 200), (0, 200), (3, 16)))
        labels[i, j, k] = 15
        mask = (labels != 17).astype(np.uint8)
        one = self.root / "labels.npz"
        np.savez_compressed(one, semantics=labels, mask_lidar=mask, mask_camera=mask)
        for name, first, end in zip(self.names, self.start, self.start[1:]):
            for token in self.sample[first:end]:
                folder = self.root / "gts" / name / token
                folder.mkdir(parents=True)
                os.link(one, folder / "labels.npz")


def main(args: Args) -> None:
    """Generate, prepare in a process of its own, report, delete."""
    args.work.mkdir(parents=True)
    try:
        begin = time.perf_counter()
        Writer(args.work, args.scenes).write()
        size = sum(p.stat().st_size for p in (args.work / "v1.0-trainval").iterdir())
        print(f"generated {args.scenes} scenes, tables of {size / 1e9:.2f} GB, in {time.perf_counter() - begin:.0f} s")
        begin = time.perf_counter()
        command = [sys.executable, "-m", "world_model.prepare", "--data-root", str(args.work), *args.options]
        subprocess.run(command, check=True)
        wall, usage = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20
        print(f"prepare: {wall:.1f} s wall, {cpu:.1f} s CPU, {memory:.2f} GB peak resident memory")
    finally:
        if not args.keep:
            shutil.rmtree(args.work)


if __name__ == "__main__":
    main(tyro.cli(Args, prog="python benchmarks/prepare.py"))
