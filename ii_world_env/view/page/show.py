"""The page at work: wishes of its controls come in, the clock ticks, and the scene follows.

Everything happens in one thread, one thing after another, so two people at two pages cannot tear the drive apart: they
see the same drive, and the last key wins. A wish that cannot be fulfilled is answered by a note; the drive stays as it
was.
"""

from __future__ import annotations

import contextlib
import queue
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ii_world_env.faces.config import EnvConfig
from ii_world_env.view.drives.saved import Frames, is_drive, load_drive, open_files, save_drive
from ii_world_env.view.drives.session import Session
from ii_world_env.view.geometry.picture import Picture
from ii_world_env.view.page.curves import Curves
from ii_world_env.view.page.film import BETWEEN, PageRecorder, Recorder, stamp
from ii_world_env.view.page.panel import PACES, Panel
from ii_world_env.view.page.scene import Scene
from world_model.core.errors import DataError, IIWorldError
from world_model.core.grid import STEP_S
from world_model.worlds import WORLD_NAMES

GLIDES = 10
"""Positions on the way from one moment to the next, a substep each."""
LARGEST_UPLOAD = 2**28
HELP = "Click the scene, then drive: W A S D or arrows. Space: go or pause, backspace: step back, 1 to 4: camera."


class Show:
    """A source on a server.

    Args:
        server: a `viser.ViserServer`.
        source: a drive, or files.
        config: data, checkpoint and device for drives that are opened.
        folder: where films and drives are saved.
    """

    def __init__(self, server: Any, source: Session | Frames, config: EnvConfig, folder: Path) -> None:
        self.server, self.source, self.config, self.folder = server, source, config, folder
        self.playing, self.updates = False, 0
        self._wishes: queue.Queue[tuple[str, tuple[Any, ...], Any]] = queue.Queue(maxsize=256)
        self._due_s, self._camera = 0.0, "chase"
        self._film: Recorder | PageRecorder | None = None
        self.scene, self.panel = Scene(server), Panel(server, self.wish, isinstance(source, Session))
        self.curves = Curves(server) if isinstance(source, Session) else None
        if not isinstance(source, Session):
            self._camera = "orbit"
        self._refill()
        self.draw()
        server.on_client_connect(self._came)
        server.on_client_disconnect(lambda client: self.wish("gone", client=client))

    def film(self, recorder: Recorder | PageRecorder) -> None:
        """Let a recorder take a picture of every moment from now on."""
        self._film = recorder

    def wish(self, name: str, *values: Any, client: Any = None) -> None:
        """Ask for something, from any thread. What comes faster than it can be served is dropped."""
        with contextlib.suppress(queue.Full):
            self._wishes.put_nowait((name, values, client))

    def run(self, until_s: float | None = None) -> None:
        """Serve until interrupted, or for so many seconds."""
        end = None if until_s is None else time.monotonic() + until_s
        while end is None or time.monotonic() < end:
            self.serve(0.5)

    def serve(self, longest_s: float) -> None:
        """Fulfil one wish, or make one step that is due, or wait for either."""
        wait = self._due_s - time.monotonic() if self.playing else longest_s
        try:
            name, values, client = (
                self._wishes.get(timeout=min(max(wait, 0.0), longest_s)) if wait > 0 else (self._wishes.get_nowait())
            )
        except queue.Empty:
            if self.playing and time.monotonic() >= self._due_s:
                self._guarded(self.advance, None)
            return
        self._guarded(lambda: getattr(self, f"_on_{name}")(*values, client=client), client)

    def _guarded(self, work: Any, client: Any) -> None:
        try:
            work()
        except IIWorldError as error:
            self.playing = False
            self._say("This cannot be done", str(error), client)
            self._refill()

    def _say(self, title: str, text: str, client: Any = None) -> None:
        pages = [client] if client is not None else list(self.server.get_clients().values())
        for page in pages:
            with contextlib.suppress(Exception):  # a page that has just gone
                page.add_notification(title, text, auto_close_seconds=8.0)

    # What is drawn ---------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Show the present moment, and film it."""
        self._draw(self.source.pictures())

    def _draw(self, pictures: list[Picture]) -> None:
        self.panel.show_titles([one.title for one in pictures])
        self.scene.show(pictures, self.panel.look())
        at, count = self.source.place
        self.panel.show_place(at, count)
        film = " | recording" if self._film is not None else ""
        self.panel.show_text(self.source.text(), HELP + film if isinstance(self.source, Session) else film)
        if self.curves is not None:
            self.curves.show(self.source.facts())
            self._show_branches()
        self.updates += 1
        self._take()

    def _take(self) -> None:
        if self._film is not None and not self._film.take():
            self._end_film()

    def advance(self) -> None:
        """One step on: compute it, glide there, show it."""
        begin = time.monotonic()
        pace = PACES[self.panel.pace.value] if isinstance(self.source, Session) else 1.0
        seconds = STEP_S / pace if pace else 0.0
        self._due_s = begin + seconds
        if not isinstance(self.source, Session):
            self.playing = self.source.forth()
            self.draw()
            return
        ended = self.source.drive.end()
        self.source.step(begin)
        pictures = self.source.pictures()
        self._glide(pictures, begin, seconds)
        if ended is None and self.source.drive.end() is not None:
            self.playing = False
        self._draw(pictures)

    def _glide(self, pictures: list[Picture], begin: float, seconds: float) -> None:
        motions = [picture.motion for picture in pictures]
        if not all(len(one) for one in motions):
            return
        count = BETWEEN + 1 if self._film is not None else GLIDES if seconds else 0
        for part in range(1, count):
            late = time.monotonic() - begin - part / count * seconds
            if self._film is None and late > seconds / count:
                continue
            if late < 0:
                time.sleep(-late)
            self.scene.glide([one[round(part / count * len(one)) - 1] for one in motions])
            self._take()

    def _show_branches(self) -> None:
        assert isinstance(self.source, Session)
        drive = self.source.drive
        ends = [moment.number for moment in drive.branches]
        names = tuple(f"{k}: {m.steps * STEP_S:.1f} s" for k, m in enumerate(drive.branches, 1))
        if tuple(self.panel.branch.options) != names:
            self.panel.set(self.panel.branch, options=names)
        self.panel.set(self.panel.branch, value=names[ends.index(drive.line[-1].number)])

    def _refill(self) -> None:
        """Let the controls say what is the case."""
        if not isinstance(self.source, Session):
            return
        panel, session = self.panel, self.source
        scene, frame, _ = session.start
        world = session.begun.config.world
        worlds = WORLD_NAMES if world in WORLD_NAMES else (*WORLD_NAMES, world)
        panel.set(panel.world, options=worlds)
        panel.set(panel.world, value=world)
        panel.set(panel.scene, options=tuple(session.scene_names))
        panel.set(panel.scene, value=scene)
        panel.set(panel.frame, value=frame)
        panel.set(panel.action, value=session.begun.config.action)
        if session.driver_name not in panel.driver.options:
            panel.set(panel.driver, options=(*panel.driver.options, session.driver_name))
        panel.set(panel.driver, value=session.driver_name)
        panel.set(panel.futures, value=session.futures)
        for name, box in panel.beside.items():
            panel.set(box, value=name in session.begun.beside and not session.futures)

    # Wishes ----------------------------------------------------------------------------------------------------------

    def _came(self, client: Any) -> None:
        client.camera.up_direction = (0.0, 0.0, 1.0)
        client.camera.fov = 0.9
        self._on_camera(self._camera, client=client)

    def _on_gone(self, client: Any) -> None:
        """A car that is not seen does not drive."""
        if self._film is not None and self._film.client is client:
            self._end_film()
        if not self.server.get_clients():
            self.playing = False

    def _on_camera(self, name: str, client: Any) -> None:
        position, target = self.scene.camera(name)
        self._camera = name
        for page in [client] if client is not None else self.server.get_clients().values():
            page.camera.position, page.camera.look_at = position, target

    def _on_key(self, name: str, client: Any) -> None:
        session = self._session()
        if not self.panel.real_time.value:
            session.step_keys({name})
            self.draw()
            return
        session.keys.press(name, time.monotonic())
        if not self.playing:
            self._on_go(client)

    def _on_go(self, client: Any) -> None:
        self.playing, self._due_s = not self.playing, time.monotonic()
        if not self.playing and isinstance(self.source, Session):
            self.source.keys.release()

    def _on_moment(self, name: str, client: Any) -> None:
        self.playing = False
        if name == "step":
            self._session().step_keys(set())
        elif name == "back":
            self.source.back()
        elif name == "forth":
            self.source.forth()
        else:
            self.source.seek(0 if name == "|<" else self.source.place[1])
        self.draw()

    def _on_seek(self, client: Any) -> None:
        self.playing = False
        self.source.seek(int(self.panel.place.value))
        self.draw()

    def _on_branch(self, client: Any) -> None:
        drive = self._session().drive
        self.playing = False
        drive.go(drive.branches[list(self.panel.branch.options).index(self.panel.branch.value)].number)
        self.draw()

    def _on_driver(self, client: Any) -> None:
        self._session().choose_driver(self.panel.driver.value)

    def _on_scene(self, client: Any) -> None:
        self._begin(frame=None)

    def _on_begin(self, client: Any) -> None:
        scene, _, _ = self._session().start
        self._begin(frame=int(self.panel.frame.value) if self.panel.scene.value == scene else None)

    def _begin(self, frame: int | None) -> None:
        session, panel = self._session(), self.panel
        self.playing = False
        config = replace(session.begun.config, world=panel.world.value, action=panel.action.value)
        session.begin(replace(session.begun, config=config, scene=panel.scene.value, frame=frame))
        self._refill()
        self.draw()

    def _on_look(self, client: Any) -> None:
        self.draw()

    def _on_beside(self, client: Any) -> None:
        names = tuple(name for name, box in self.panel.beside.items() if box.value)
        self._session().show_beside(names)
        self._beside_changed()

    def _on_futures(self, client: Any) -> None:
        self._session().show_futures(self.panel.futures.value)
        self._beside_changed()

    def _beside_changed(self) -> None:
        self._refill()
        self.draw()
        wide = "orbit" if self.scene.width_m else self._camera
        self._on_camera(wide, client=None)

    def _on_film(self, client: Any) -> None:
        if self._film is not None:
            self._end_film()
            return
        page = client if client is not None else next(iter(self.server.get_clients().values()), None)
        if page is None:
            raise DataError("no page is open", "a page that films", "open the address in a browser")
        size = page.camera.image_width or 960, page.camera.image_height or 540
        scale = min(1.0, 960 / size[0])
        self.film(Recorder(page, (int(size[0] * scale) // 2 * 2, int(size[1] * scale) // 2 * 2)))
        self.panel.set(self.panel.film, label="End the film")
        self.draw()  # its first picture

    def _end_film(self) -> None:
        film, self._film = self._film, None
        self.panel.set(self.panel.film, label="Record a film")
        if not isinstance(film, Recorder) or not film.frames:
            self._say("No film", "Nothing was driven while it was recorded.")
            return
        path = film.write(self.folder)
        self._say("Film saved", str(path))
        self._offer(film.client, path)

    def _on_save(self, client: Any) -> None:
        path = save_drive(self.folder / f"{stamp()}.npz", self._session())
        self._say("Drive saved", f"{path}\nOpen it again: python -m ii_world_env.view {path}", client)
        self._offer(client, path)

    def _offer(self, client: Any, path: Path) -> None:
        if client is not None:
            with contextlib.suppress(Exception):  # a page that has just gone
                client.send_file_download(path.name, path.read_bytes())

    def _on_upload(self, name: str, content: bytes, client: Any) -> None:
        if len(content) > LARGEST_UPLOAD:
            raise DataError(
                f"{name}: {len(content) >> 20} MiB", f"at most {LARGEST_UPLOAD >> 20} MiB", "open it by name"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "upload.npz"
            path.write_bytes(content)
            if not is_drive(path):
                open_files((path,))  # says what is wrong with it
                raise DataError(
                    f"{name} holds no drive", "a drive that the page saved", f"python -m ii_world_env.view {name}"
                )
            self.source, self.playing = load_drive(path, self.config), False
        self._refill()
        self.draw()

    def _session(self) -> Session:
        if not isinstance(self.source, Session):
            raise DataError("files are shown", "a drive", "start the command without files")
        return self.source
