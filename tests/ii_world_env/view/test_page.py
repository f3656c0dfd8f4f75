"""The page in a real browser: Chromium without a screen opens it, presses keys, and its pictures are measured.

Skipped where viser or Chromium is missing.
"""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ii_world_env.faces.config import EnvConfig
from ii_world_env.view.drives.saved import is_drive
from ii_world_env.view.drives.session import Begin, Session
from ii_world_env.view.page.browser import Browser, chromium, open_browser
from ii_world_env.view.page.film import QUIET, READY, film_page
from ii_world_env.view.page.serve import address, server
from ii_world_env.view.page.show import Show
from world_model.core.errors import ConfigError, OptionError
from world_model.pictures.bev import EGO_COLOR

if importlib.util.find_spec("viser") is None:
    pytest.skip("viser is not installed (extra viewer)", allow_module_level=True)
needs_chromium = pytest.mark.skipif(chromium() is None, reason="no Chromium on the search path")
SIZE = (640, 360)
CANVAS = SIZE[0] - 320
"""Pixels to the left of the panel."""


@contextmanager
def shown(data: Path, folder: Path, **options: Any) -> Iterator[tuple[Show, str]]:
    """A page of the small world, served by a thread of its own until the end."""
    config = EnvConfig(world="small_worlds:Transport", index=str(data), split="all")
    with server("127.0.0.1", 0) as made:
        show = Show(made, Session(Begin(config=config, **options)), config, folder)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                show.serve(0.05)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield show, address(made, "127.0.0.1")
        finally:
            done.set()
            thread.join(60)


def until(true: Callable[[], bool], limit_s: float = 240.0) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def opened(browser: Browser, place: str) -> None:
    browser.visit(place, SIZE)
    browser.wait_for(READY)
    browser.ask(QUIET)


def orange(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Pixels of the ego's car: much more red than blue."""
    canvas = picture[:, :CANVAS].astype(int)
    return (canvas[..., 0] - canvas[..., 2] > 110) & (canvas[..., 0] > canvas[..., 1] + 60)


@needs_chromium
def test_driving_by_keyboard_changes_the_scene(small_data: Path, tmp_path: Path) -> None:
    with shown(small_data, tmp_path) as (show, place), open_browser() as browser:
        opened(browser, place)
        session = show.source
        assert isinstance(session, Session)
        until(lambda: orange(browser.picture()).sum() > 300)
        before = browser.picture()
        assert EGO_COLOR[0] > 200 and len(np.unique(before[:, :CANVAS].reshape(-1, 3), axis=0)) > 50
        client = next(iter(show.server.get_clients().values()))
        camera = client.camera.position.copy()

        # Step by step: one key, one step.
        show.panel.real_time.value = False
        browser.press("arrowup")
        until(lambda: session.place == (1, 2))
        browser.press("a")
        until(lambda: session.place == (2, 3))
        assert session.drive.lead.path(session.drive.now)[-1, 2] > 0.01, "A turns left"
        browser.press("backspace")
        until(lambda: session.place[0] == 1)
        browser.press("arrowright")
        until(lambda: len(session.drive.branches) == 2)
        for word in ("km/h", "driving", "reward", "2: 1.0 s"):
            browser.wait_for(
                f"(document.body.innerText + document.querySelector('input[value^=\"2:\"]')?.value).includes('{word}')"
            )

        # In real time: a key sets it going, space stops it.
        show.panel.real_time.value = True
        browser.press("w")
        until(lambda: session.place[0] >= 4)
        browser.press("space")
        until(lambda: not show.playing)
        steps = session.place[0]
        after = browser.picture()
        changed = np.abs(after[:, :CANVAS].astype(int) - before[:, :CANVAS]).max(-1) > 12
        assert 0.05 < changed.mean() < 0.98, "the world moves, the sky stays"
        assert (orange(before) & orange(after)).sum() > 0.5 * orange(before).sum(), "the car stays in view"
        np.testing.assert_allclose(client.camera.position, camera, atol=1e-3)
        assert session.place[0] == steps

        # A film of what this page sees, in its own size.
        show.wish("film", client=client)
        show.panel.real_time.value = False
        until(lambda: show.panel.film.label == "End the film")
        browser.press("s")
        until(lambda: session.place[0] == steps + 1)
        show.wish("film", client=client)
        until(lambda: bool(list(tmp_path.glob("*.gif")) + list(tmp_path.glob("*.mp4"))))

        # Another camera is another picture; the driver sits in the car.
        browser.press("3")
        until(lambda: float(client.camera.position[2]) > 50)
        until(lambda: 0 < orange(browser.picture()).sum() < orange(before).sum() / 2)
        assert not browser.errors


@needs_chromium
def test_two_pages_see_one_drive_and_a_page_that_goes_away_stops_it(small_data: Path, tmp_path: Path) -> None:
    with shown(small_data, tmp_path) as (show, place), open_browser() as first:
        opened(first, place)
        with open_browser() as second:
            opened(second, place)
            until(lambda: len(show.server.get_clients()) == 2)
            show.panel.real_time.value = False
            first.press("w")
            until(lambda: show.source.place[1] == 2)
            second.press("a")
            until(lambda: show.source.place[1] == 3)
            first.wait_for("document.body.innerText.includes('1.0 s')")
        until(lambda: len(show.server.get_clients()) == 1)
        show.panel.real_time.value = True
        first.press("w")
        until(lambda: show.playing)
        first.call("Page.navigate", url="about:blank")
        until(lambda: not show.server.get_clients() and not show.playing)
    assert not [thread for thread in threading.enumerate() if "serve" in thread.name]


@needs_chromium
def test_a_film_of_the_page(small_data: Path, tmp_path: Path) -> None:
    config = EnvConfig(world="small_worlds:Transport", index=str(small_data), split="all")
    session = Session(Begin(config=config))
    session.choose_driver("constant_velocity")
    with server("127.0.0.1", 0) as made:
        show = Show(made, session, config, tmp_path)
        film = film_page(show, address(made, "127.0.0.1"), tmp_path / "film.gif", 0.5, SIZE)
    from PIL import Image

    with Image.open(film) as frames:
        assert frames.size == SIZE and frames.n_frames >= 3


def notes(show: Show, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(show, "_say", lambda title, text, client=None: said.append(f"{title}: {text}"))
    return said


def test_wishes_that_cannot_be_fulfilled_are_answered(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EnvConfig(world="small_worlds:Transport", index=str(small_data), split="all")
    with server("127.0.0.1", 0) as made:
        show = Show(made, Session(Begin(config=config)), config, tmp_path)
        said = notes(show, monkeypatch)

        def wish(name: str, *values: Any) -> None:
            show.wish(name, *values)
            show.serve(0.0)
            show.serve(0.0)

        show.panel.real_time.value = False
        wish("key", "up")
        drive = show.source.drive
        for bad in (b"", b"PK\x03\x04nonsense", b"\x00" * 1000):
            wish("upload", "evil.npz", bad)
        show.panel.world.value = "simulated"
        wish("begin")
        wish("film")
        assert len(said) == 5 and all(text.startswith("This cannot be done") for text in said)
        assert show.source.drive is drive and show.panel.world.value == "small_worlds:Transport"
        wish("save")
        saved = list(tmp_path.glob("*.npz"))
        assert len(saved) == 1 and is_drive(saved[0])

        # What is shown follows the controls.
        voxels = show.scene.voxels(0)
        show.panel.heights.value = (0, 3)
        wish("look")
        assert 0 < len(show.scene.voxels(0)) < len(voxels)
        show.panel.futures.value = True
        wish("futures")
        assert len(show.scene.places) == 5 and show.scene.width_m > 100
        show.panel.differs.value = "future: brake"
        wish("look")
        assert len(show.scene.places) == 6
        for _ in range(400):  # more than are kept: the rest is dropped
            show.wish("look")


def test_a_port_in_use_and_a_strange_host_are_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"--port {port}"), server("127.0.0.1", port):
            pass
    for host, port in (("192.0.2.1", 0), ("no such host", 0), ("127.0.0.1", 99999)):
        with pytest.raises(OptionError, match="free port"), server(host, port):
            pass


def test_it_listens_on_loopback_and_tunnels_nothing() -> None:
    from ii_world_env.view.run import View

    assert View().host == "127.0.0.1"
    with server("127.0.0.1", 0) as made:
        assert made.request_share_url() is None
        with socket.create_connection(("127.0.0.1", made.get_port()), 5):
            pass


def test_without_viser_or_chromium_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"iiworld\[viewer\]"), server("127.0.0.1", 0):
        pass
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="no Chromium"), open_browser():
        pass
