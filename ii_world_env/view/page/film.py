"""Record what a page shows: one picture for each moment and some between, in the pace of the drive."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ii_world_env.view.page.browser import Browser, open_browser
from world_model.core.grid import STEP_S
from world_model.pictures.video import write_film

BETWEEN = 2
"""Pictures between two moments."""
FPS = (BETWEEN + 1) / STEP_S
SIZE = (960, 540)
WAIT_S = 20.0
READY = "document.querySelector('canvas') !== null && document.body.innerText.includes('km/h')"
QUIET = (
    "document.head.appendChild(Object.assign(document.createElement('style'),"
    "{textContent:'.mantine-Notifications-root{display:none}'}))"
)
"""Hides notes, such as the one that a headless browser draws without a GPU."""
LONGEST = 3000


class Recorder:
    """Collects the pictures of one client.

    Args:
        client: a `viser.ClientHandle`, whose camera films.
        size: width and height in pixels, at most those of its window.
    """

    def __init__(self, client: Any, size: tuple[int, int] = SIZE) -> None:
        self.client, self._size = client, size
        self.frames: list[NDArray[Any]] = []

    def take(self) -> bool:
        """Keep what the client sees now; False where it is gone, does not answer, or the film is full."""
        width, height = self._size
        if len(self.frames) >= LONGEST:
            return False
        try:
            frame = self.client.get_render(height, width, timeout=WAIT_S)
        except Exception:  # whatever a page that goes away makes of it: the film ends here
            return False
        self.frames.append(np.ascontiguousarray(frame[..., :3]))
        return True

    def write(self, folder: Path) -> Path:
        """Write the film as MP4, or as GIF without the extra `video`; returns its file.

        Raises:
            OutputError: it cannot be written.
            ConfigError: nothing was recorded.
        """
        return write_film(folder / f"{stamp()}.mp4", self.frames, FPS)


class Filmed(Protocol):
    """What can be filmed: `ii_world_env.view.page.show.Show`."""

    def film(self, recorder: PageRecorder) -> None:
        """Let a recorder take a picture of every moment from now on."""
        ...

    def draw(self) -> None:
        """Show the present moment, and film it."""
        ...

    def advance(self) -> None:
        """One step on."""
        ...


class PageRecorder:
    """Collects pictures of a whole page, panel and all, in a headless browser."""

    client = None

    def __init__(self, browser: Browser) -> None:
        self.frames: list[NDArray[Any]] = []
        self._browser = browser

    def take(self) -> bool:
        """Keep what the page shows now."""
        self.frames.append(self._browser.picture())
        return True


def film_page(show: Filmed, address: str, path: Path, seconds: float, size: tuple[int, int]) -> Path:
    """Film a page without a screen, in a headless Chromium.

    Args:
        show: what the page shows; its driver drives.
        address: of the page. path: .gif or .mp4. seconds: of the drive. size: width and height in pixels.

    Returns:
        The file, see `write_film`.

    Raises:
        ConfigError: no Chromium, or the page stays empty.
        OutputError: the film cannot be written.
    """
    with open_browser() as browser:
        browser.visit(address, size)
        browser.wait_for(READY)
        browser.ask(QUIET)
        recorder = PageRecorder(browser)
        show.film(recorder)
        show.draw()
        for _ in range(max(1, round(seconds / STEP_S))):
            show.advance()
    return write_film(path, recorder.frames, FPS)


def stamp() -> str:
    """A name for a file by the present second."""
    return time.strftime("drive-%Y%m%d-%H%M%S")
