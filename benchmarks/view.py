"""How often the page of `python -m ii_world_env.view` is renewed: step, geometry and sending, at B = 1 on Occ3D's grid.

    python benchmarks/view.py --worlds transport geometric ii-world simulated

A websocket client in a process of its own takes everything in, as a page would, and draws nothing. Beside the updates
per second stand those per second of CPU time, which a busy machine does not change, the CPU time of every part, and the
ratio of a whole update to a step alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from ii_world_env.faces.config import EnvConfig
from ii_world_env.view.drives.drivers import key_action
from ii_world_env.view.drives.session import Begin, Session
from ii_world_env.view.geometry.colors import class_faces
from ii_world_env.view.page.serve import server
from ii_world_env.view.page.show import Show

READER = """
import sys, viser
from websockets.sync.client import connect
with connect(sys.argv[1], subprotocols=["viser-v" + viser.__version__], max_size=None, proxy=None) as socket:
    print("open", flush=True)
    while True:
        socket.recv()
"""
BYTES_A_FACE = 3 * 4 + 4 * 4 + 3 * 4 + 3


@dataclass(frozen=True, kw_only=True)
class Args:
    """Updates of the page per second."""

    worlds: tuple[str, ...] = ("transport", "geometric")
    """Worlds to time."""
    scene: str = "scene-0132"
    """A bundled scene, or one of the index."""
    index: Path | None = None
    """Index file. If not given: the bundled demo scenes."""
    updates: int = 40
    """Timed updates of each world."""


def main(args: Args) -> None:
    """Print a table."""
    print("| world | updates/s | updates/CPU s | CPU ms: step | geometry | the rest | faces | kB | update : step |")
    print("|---|---|---|---|---|---|---|---|---|")
    for world in args.worlds:
        index = None if args.index is None else str(args.index)
        session = Session(Begin(config=EnvConfig(world=world, index=index, horizon=40), scene=args.scene))
        with server("127.0.0.1", 0) as made:
            show = Show(made, session, session.begun.config, Path("."))
            show.panel.pace.value = "as fast as it can"
            command = [sys.executable, "-c", READER, f"ws://127.0.0.1:{made.get_port()}"]
            reader = subprocess.Popen(command, stdout=subprocess.PIPE)
            try:
                assert reader.stdout is not None and reader.stdout.readline() == b"open\n"
                print(_row(show, session, world, args.updates), flush=True)
            finally:
                reader.terminate()
                reader.wait()


def _row(show: Show, session: Session, world: str, updates: int) -> str:
    for _ in range(3):
        show.advance()
    begin, clock = time.perf_counter(), time.process_time()
    for number in range(updates):
        if number % 20 == 0:  # stay in the recording, and near what was observed
            session.drive.go(0)
        show.advance()
    seconds, whole = (time.perf_counter() - begin) / updates, (time.process_time() - clock) / updates
    session.drive.go(0)
    begin = time.process_time()
    for _ in range(20):
        session.drive.step(key_action(session.drive.lead.engine, session.drive.state, set()))
    step = (time.process_time() - begin) / 20
    labels = session.pictures()[0].labels
    begin = time.process_time()
    for _ in range(10):
        faces, _ = class_faces(labels)
    geometry = (time.process_time() - begin) / 10
    rest = whole - step - geometry
    count = len(faces)
    return (
        f"| {world} | {1 / seconds:.1f} | {1 / whole:.1f} | {1e3 * step:.0f} | {1e3 * geometry:.0f} | {1e3 * rest:.0f} "
        f"| {count} | {count * BYTES_A_FACE / 1e3:.0f} | {whole / step:.1f} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
