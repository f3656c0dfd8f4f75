"""The controls of the page. They only say what is wanted; `show.Show` does it."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from ii_world_env.ego.actions import ACTION_MODES
from ii_world_env.view.drives.drivers import PLANNERS, YOU
from ii_world_env.view.page.scene import CAMERAS, Look
from world_model.core.grid import CLASS_COLORS, CLASS_NAMES, FREE
from world_model.worlds import WORLD_NAMES

PACES = {"0.5x": 0.5, "1x": 1.0, "2x": 2.0, "as fast as it can": 0.0}
KEYS = {"up": ("W", "arrowup"), "down": ("S", "arrowdown"), "left": ("A", "arrowleft"), "right": ("D", "arrowright")}
NOTHING = "nothing"
WIDTH_PX = 320
# The page's camera listens to the same keys at the document; the car's commands listen one element below it. Keys that
# drive go no further than there. Without this line (a page that forbids scripts) the camera moves a little, too.
QUIET_KEYS = (
    '<img src="data:," style="display:none" onerror="if(!window.iiw){window.iiw=1;'
    "document.documentElement.addEventListener('keydown',e=>{"
    'if(/^(Key[WASD]|Arrow)/.test(e.code))e.stopPropagation()})}">'
)
Wish = Callable[..., None]


class Panel:
    """Widgets of a viser server.

    Args:
        server: a `viser.ViserServer`.
        wish: called with the name of a wish and its values, and ``client=`` where it comes from one page.
        drives: whether there is something to drive; else only files are looked at.
    """

    def __init__(self, server: Any, wish: Wish, drives: bool) -> None:
        self._gui, self._wish = server.gui, wish
        gui = server.gui
        gui.configure_theme(dark_mode=True, show_share_button=False, show_logo=False)
        gui.main_panel.dock_right()
        gui.main_panel.set_width(WIDTH_PX)
        gui.set_panel_label("IIWorld")
        self._facts = gui.add_html(QUIET_KEYS)
        self._mute = False
        tabs = gui.add_tab_group()
        if drives:
            with tabs.add_tab("Drive"):
                self._drive_tab()
            with tabs.add_tab("Scene"):
                self._scene_tab()
        with tabs.add_tab("Look"):
            self._look_tab(drives)
        with tabs.add_tab("Compare"):
            self._compare_tab(drives)
        if drives:
            with tabs.add_tab("Keep"):
                self._keep_tab()
        self._commands(drives)

    def _drive_tab(self) -> None:
        gui = self._gui
        self.go = gui.add_button("Go / pause   [space]", color="green")
        self.go.on_click(lambda _: self._wish("go"))
        group = gui.add_button_group(
            "moment", ("|<", "back", "step", "forth", ">|"), hint="back: [backspace], step: [N]"
        )
        group.on_click(lambda _: self._wish("moment", group.value))
        self.place = self._input(gui.add_slider("at", 0, 1, 1, 0, disabled=True), "seek")
        self.branch = self._input(gui.add_dropdown("branch", ("1",), hint="a new action after an old moment"), "branch")
        self.driver = self._input(gui.add_dropdown("driver", (YOU, *PLANNERS), hint="keys always win"), "driver")
        self.real_time = gui.add_checkbox("real time", True, hint="off: every key is one step of 0.5 s")
        self.pace = gui.add_dropdown("pace", tuple(PACES), initial_value="1x")

    def _scene_tab(self) -> None:
        gui = self._gui
        self.world = gui.add_dropdown("world", WORLD_NAMES)
        self.scene = self._input(gui.add_dropdown("scene", ("",)), "scene")
        self.frame = gui.add_number("frame", 0, min=0, step=1)
        self.action = gui.add_dropdown("action", tuple(ACTION_MODES))
        gui.add_button("Begin anew").on_click(lambda _: self._wish("begin"))

    def _look_tab(self, drives: bool) -> None:
        gui = self._gui
        cameras = gui.add_button_group("camera", tuple(CAMERAS), hint="or [1] to [4]; drag to orbit")
        cameras.on_click(lambda event: self._wish("camera", cameras.value, client=event.client))
        if not drives:
            self.place = self._input(gui.add_slider("moment", 0, 1, 1, 0, disabled=True), "seek")
        self.heights = self._input(
            gui.add_multi_slider("layers", 0, 16, 1, (0, 16), min_range=1, hint="of 0.4 m"), "look"
        )
        self.boxes = self._input(gui.add_checkbox("boxes of others", True), "look")
        with gui.add_folder("Classes", expand_by_default=False):
            self.classes = {}
            for number, name in enumerate(CLASS_NAMES[:FREE]):
                red, green, blue = CLASS_COLORS[number]
                box = gui.add_checkbox(name.replace("_", " "), True, hint=f"RGB {red}, {green}, {blue}")
                self.classes[number] = self._input(box, "look")

    def _compare_tab(self, drives: bool) -> None:
        gui = self._gui
        if drives:
            self.beside = {name: self._input(gui.add_checkbox(name, False), "beside") for name in WORLD_NAMES[1:]}
            self.futures = self._input(
                gui.add_checkbox("futures", False, hint="keep, brake, left, right from now on"), "futures"
            )
        self.differs = self._input(gui.add_dropdown("difference to", (NOTHING,)), "look")
        gui.add_html(_legend())

    def _keep_tab(self) -> None:
        gui = self._gui
        self.film = gui.add_button("Record a film")
        self.film.on_click(lambda event: self._wish("film", client=event.client))
        gui.add_button("Save the drive").on_click(lambda event: self._wish("save", client=event.client))
        upload = gui.add_upload_button("Open a file", mime_type=".npz")
        upload.on_upload(
            lambda event: self._wish("upload", upload.value.name, upload.value.content, client=event.client)
        )

    def _commands(self, drives: bool) -> None:
        gui = self._gui

        def command(label: str, key: str, name: str, *values: Any) -> None:
            made = gui.add_command(label, hotkey=key)
            made.on_trigger(lambda event: self._wish(name, *values, client=getattr(event, "client", None)))

        if drives:
            for name, keys in KEYS.items():
                for key in keys:
                    command(f"drive: {name}", key, "key", name)
            command("go / pause", "space", "go")
            command("one step", "N", "moment", "step")
        command("back", "backspace", "moment", "back")
        command("forth", "enter", "moment", "forth")
        for number, name in enumerate(CAMERAS, 1):
            command(f"camera: {name}", str(number), "camera", name)

    def set(self, widget: Any, **values: Any) -> None:
        """Change a widget without taking that for a wish."""
        self._mute = True
        try:
            for name, value in values.items():
                if getattr(widget, name) != value:
                    setattr(widget, name, value)
        finally:
            self._mute = False

    def look(self) -> Look:
        """What is to be shown of the labels."""
        names = list(self.differs.options)
        number = names.index(self.differs.value) if self.differs.value in names else 0
        low, high = self.heights.value
        return Look(
            hidden=tuple(number for number, box in self.classes.items() if not box.value),
            heights=None if (low, high) == (0, self.heights.max) else (int(low), int(high)),
            differs_from=number or None,
            boxes=self.boxes.value,
        )

    def show_titles(self, titles: Sequence[str]) -> None:
        """The pictures that the first can be compared with."""
        options = (NOTHING, *titles[1:])
        if tuple(self.differs.options) != options:
            value = self.differs.value if self.differs.value in options else NOTHING
            self.set(self.differs, options=options)
            self.set(self.differs, value=value)

    def show_place(self, at: int, count: int) -> None:
        """Which moment is in view."""
        self.set(self.place, max=max(1, count - 1), disabled=count < 2)
        self.set(self.place, value=min(at, max(1, count - 1)))

    def show_text(self, lines: dict[str, str], note: str) -> None:
        """The head of the panel: speed and what happens large, the rest small."""
        rows = {name: html.escape(value) for name, value in lines.items()}
        speed = rows.pop("speed", "")
        state = rows.pop("state", "")
        color = "#4ade80" if state == "driving" else "#facc15" if state == "destination" else "#f87171"
        head = (
            f'<div style="display:flex;justify-content:space-between;align-items:baseline">'
            f'<span style="font-size:2em;font-weight:600">{speed}</span>'
            f'<span style="color:{color};font-weight:600">{state}</span></div>'
        )
        small = " &middot; ".join(f"{value}" for value in rows.values())
        content = (
            f'<div style="padding:0.4em 1em 0.2em 1em">{head if speed else ""}'
            f'<div style="opacity:0.75;font-size:0.85em">'
            f'{small}</div><div style="font-size:0.8em;opacity:0.6">{html.escape(note)}</div></div>{QUIET_KEYS}'
        )
        if content != self._facts.content:
            self._facts.content = content

    def _input(self, widget: Any, name: str) -> Any:
        widget.on_update(
            lambda event: None if self._mute or event.client is None else self._wish(name, client=event.client)
        )
        return widget


def _legend() -> str:
    from world_model.pictures.difference import COLORS, NAMES

    shown = [("agrees", (110, 116, 128)), *zip(NAMES[1:], COLORS[2:].tolist(), strict=True)]
    parts = [
        f'<span style="white-space:nowrap"><span style="color:rgb{tuple(color)}">&#9632;</span> {name}</span>'
        for name, color in shown
    ]
    return f'<div style="padding:0 1em;font-size:0.85em">{" &nbsp; ".join(parts)}</div>'
