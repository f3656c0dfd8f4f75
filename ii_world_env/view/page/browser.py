"""A headless Chromium that opens the page, presses keys and takes pictures: for films without a screen, and for tests.

It speaks the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/) over the websocket library that
viser brings, so nothing else has to be installed but Chromium.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from world_model.core.errors import ConfigError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--no-first-run"),
    *("--disable-extensions", "--disable-background-networking", "--remote-debugging-port=0"),
)
CODES = {"arrowup": 38, "arrowdown": 40, "arrowleft": 37, "arrowright": 39, "space": 32, "backspace": 8}
START_S, ANSWER_S = 120.0, 300.0
"""A machine without a GPU may need a minute for a picture of a large scene."""


def chromium() -> str | None:
    """Path of an installed Chromium or Chrome; None if there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One tab of a headless Chromium; see `open_browser`."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.errors: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser.

        Raises:
            ConfigError: it refuses.
        """
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=ANSWER_S))
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"]["exceptionDetails"])[:500])
            if answer.get("id") == self._number:
                break
        if "error" in answer:
            raise ConfigError(f"{method}: {answer['error']}", "an answer of Chromium", "use a newer Chromium")
        result: dict[str, Any] = answer["result"]
        return result

    def visit(self, address: str, size: tuple[int, int] = (1280, 720)) -> None:
        """Open a page."""
        self.call("Page.enable")
        self.call("Runtime.enable")
        width, height = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=address)

    def picture(self) -> NDArray[Any]:
        """(H, W, 3) uint8 of the whole page as it is now."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def ask(self, script: str) -> Any:
        """Value of a script."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"].get(
            "value"
        )

    def press(self, key: str) -> None:
        """Press and release a key: a letter, or a name of `CODES`."""
        names = {"space": " ", "arrowup": "ArrowUp", "arrowdown": "ArrowDown", "arrowleft": "ArrowLeft"}
        name = {**names, "arrowright": "ArrowRight", "backspace": "Backspace"}.get(key, key)
        code = {"space": "Space"}.get(key, name if key in CODES else f"Key{key.upper()}")
        number = CODES.get(key, ord(key.upper()[0]))
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=code, windowsVirtualKeyCode=number)

    def click(self, x: float, y: float) -> None:
        """Click at a pixel."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def wait_for(self, script: str, limit_s: float = START_S) -> None:
        """Wait until a script is true.

        Raises:
            ConfigError: it stays false.
        """
        end = time.monotonic() + limit_s
        while not self.ask(script):
            if time.monotonic() > end:
                raise ConfigError(
                    f"{script} is false after {limit_s:.0f} s", "a page that gets ready", str(self.errors[:3])
                )
            time.sleep(0.1)


@contextlib.contextmanager
def open_browser(path: str | None = None) -> Iterator[Browser]:
    """Start Chromium with a profile of its own, and end it.

    Raises:
        ConfigError: no Chromium, or it does not start.
    """
    from websockets.sync.client import connect

    program = path or chromium()
    if program is None:
        raise ConfigError(
            "no Chromium", f"one of {', '.join(NAMES)} on the search path", "install it (apt install chromium)"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(profile) / "DevToolsActivePort", process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=START_S) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            with connect(pages[0]["webSocketDebuggerUrl"], max_size=2**28, proxy=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(file.read_text(encoding="utf-8").splitlines()[0])
        time.sleep(0.05)
    raise ConfigError("Chromium did not start", "a DevTools port", "try `chromium --headless --version`")
