"""ScenarioNet's pickles: what is read, the rate, the time of nuScenes egos, levels, and what is refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.formats.scenarionet import FRAMES, PLACE, box, line, nuscenes_like, track, waymo_like, write_scenario
from tests.real_files import REAL
from world_model.core.errors import DataError
from world_model.core.grid import CLASS_ID, EGO_LENGTH_M, EGO_REAR_OVERHANG_M
from world_model.data.formats.pickles import load_pickle
from world_model.data.scenarios.scenario import Scenario, load_scenario
from world_model.data.scenarios.scenarionet import find_scenarios, read_scenario


def read(tmp_path: Path, scenario: dict[str, Any]) -> list[Scenario]:
    return read_scenario(write_scenario(tmp_path, scenario, "x"))


def test_nuscenes(tmp_path: Path) -> None:
    (found,) = read(tmp_path, nuscenes_like())
    assert (found.name, found.source, len(found.time_s)) == ("scene-0001", "nuscenes", 12)
    classes = [CLASS_ID[name] for name in ("car", "truck", "pedestrian", "traffic_cone")]
    np.testing.assert_array_equal(found.label, classes)
    np.testing.assert_allclose(found.size_m[0], (4.5, 1.9, 1.7))
    np.testing.assert_allclose(found.time_s, 0.5 * np.arange(12), atol=1e-9)
    np.testing.assert_allclose(found.ego[:, 0] - PLACE[0], 3.0 * np.arange(12), atol=1e-6)
    np.testing.assert_allclose(found.place[:, 0, 0] - PLACE[0], 60 - 3.0 * np.arange(12))
    assert found.present[:, 2].tolist() == [False, False] + [True] * 10  # `valid` is honoured
    assert len(found.rings[1]) == 2 and len(found.areas[1]) == 3


def test_time_of_a_nuscenes_ego(tmp_path: Path) -> None:
    """The ego runs on true time and ends with the last keyframe; keyframes are brought to their true places."""
    scenario = nuscenes_like(frames=101)
    last_s = 9.8  # instead of 10
    x = 6.0 * 0.1 * np.arange(101)
    x[-2:] = 6.0 * last_s - 0.6, 6.0 * last_s
    scenario["tracks"]["ego"]["state"]["position"][:, 0] = x + PLACE[0]
    (found,) = read(tmp_path, scenario)
    true_s = np.linspace(0, last_s, 21)
    np.testing.assert_allclose(found.time_s, true_s, atol=0.02)
    np.testing.assert_allclose(found.ego[:, 0] - PLACE[0], 6.0 * true_s, atol=0.15)
    # Index 5k of an object is its keyframe k.
    np.testing.assert_allclose(found.place[:, 0, 0] - PLACE[0], 60 - 3.0 * np.arange(21))


def test_waymo(tmp_path: Path) -> None:
    (found,) = read(tmp_path, waymo_like())
    assert found.source == "waymo"
    np.testing.assert_array_equal(found.label, [CLASS_ID["car"], CLASS_ID["bicycle"]])  # not the car under the bridge
    back = EGO_LENGTH_M / 2 - EGO_REAR_OVERHANG_M
    np.testing.assert_allclose(found.ego[:, 0] - PLACE[0], 3.0 * np.arange(12) - back, atol=1e-2)  # float32
    assert len(found.lanes[1]) == 3, "the lane below the bridge is another level"
    assert (len(found.areas[1]), len(found.edges[1]), len(found.rings[1])) == (4, 3, 1)
    widths = [np.ptp(found.areas[0][a:b, 1]) for a, b in zip(found.areas[1], found.areas[1][1:])]
    np.testing.assert_allclose(sorted(widths), (3.5, 3.5, 12), atol=1e-2)


def nuplan_like(frames: int) -> dict[str, Any]:
    """The same without what is special to nuScenes."""
    scenario = nuscenes_like(frames=frames)
    scenario["metadata"]["dataset"] = "nuplan"
    for feature in scenario["map_features"].values():
        feature["polyline"] = np.asarray(feature["polyline"])[:, :2]
    return scenario


def test_types_of_other_conversions(tmp_path: Path) -> None:
    """nuPlan: junctions without middle lines, sidewalks; Argoverse 2: types that name classes, bicycle lanes."""
    scenario = nuplan_like(FRAMES)
    scenario["map_features"] = {
        "1": {"type": "LANE_SURFACE_UNSTRUCTURE", "polygon": box(-40, 100, -4, 4)},
        "2": {"type": "ROAD_EDGE_SIDEWALK", "polygon": box(-40, 100, 4, 7)},
        "3": {"type": "LANE_BIKE_LANE", "polyline": line(-40, 100, -5)},
        "4": {"type": "SOMETHING_NEW", "polyline": line(-40, 100, -5)},
    }  # fmt: skip
    x = 10.0 + 0 * np.arange(FRAMES)
    kinds = ("bus", "MOTORCYCLIST", "CYCLIST", "OTHER", "VEHICLE", "VEHICLE", "VEHICLE", "TRAFFIC_BARRIER")
    sizes = [(4, 2, 2)] * 4 + [(12, 2.5, 3), (7, 2.3, 3), (2, 0.8, 1.5), (0.5, 2, 1)]
    tracks = {str(n): track(x, 2.0, size, kind) for n, (kind, size) in enumerate(zip(kinds, sizes))}
    scenario["tracks"] = {"ego": scenario["tracks"]["ego"], **tracks}
    (found,) = read(tmp_path, scenario)
    names = ("bus", "motorcycle", "bicycle", "bus", "truck", "motorcycle", "barrier")
    np.testing.assert_array_equal(found.label, [CLASS_ID[name] for name in names])
    assert (len(found.areas[1]), len(found.walks[1]), len(found.lanes[1])) == (3, 2, 2)
    np.testing.assert_array_equal(found.lanes[0], found.ego[:, :2])


@pytest.mark.parametrize(("rate", "keep"), [(0.05, 1), (0.1, 2), (0.5, 10)])
def test_rates(tmp_path: Path, rate: float, keep: int) -> None:
    scenario = nuplan_like(121)
    scenario["metadata"]["ts"] = 0.05 * np.arange(121)[::keep]
    for one in scenario["tracks"].values():
        one["state"] = {name: value[::keep] for name, value in one["state"].items()}
    (found,) = read(tmp_path, scenario)
    np.testing.assert_allclose(np.diff(found.time_s), 0.5)
    assert len(found.time_s) == 13


def test_long_drives_become_several_scenes(tmp_path: Path) -> None:
    scenario = nuplan_like(601)
    scenario["tracks"]["ego"]["state"]["position"][:, 0] = PLACE[0] + 0.5 * np.arange(601) % 30
    found = read(tmp_path, scenario)
    assert [one.name for one in found] == ["scene-0001", "scene-0001#2", "scene-0001#3"]
    assert [len(one.time_s) for one in found] == [41, 41, 39]
    assert all(one.time_s[0] == 0 for one in found)
    far = nuplan_like(201)
    far["tracks"]["ego"]["state"]["position"][:, 0] = PLACE[0] + 3.0 * np.arange(201)  # 600 m in 20 s
    parts = read(tmp_path, far)
    assert len(parts) == 2 and all(np.ptp(part.ego[:, 0]) < 360 for part in parts)


def test_saved_and_read_again(tmp_path: Path) -> None:
    (found,) = read(tmp_path, nuscenes_like())
    found.save(tmp_path / "a.npz")
    again = load_scenario(tmp_path / "a.npz")
    assert again.digest == found.digest and again.name == found.name
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-900])
    with pytest.raises(DataError, match=r"a\.npz"):
        load_scenario(tmp_path / "a.npz")


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("false",)


def _broken() -> dict[str, tuple[Any, str]]:
    def changed(**parts: Any) -> dict[str, Any]:
        scenario = nuscenes_like()
        for key, value in parts.items():
            scenario["metadata"][key] = value
        return scenario

    cases: dict[str, tuple[Any, str]] = {
        "foreign": ({"a": 1}, "a scenario with metadata"),
        "a list": ([1, 2], "list"),
        "no ego": (changed(sdc_id="nobody"), "no track of the ego"),
        "no sdc": (changed(sdc_id=None), "no track of the ego"),
        "one frame": (nuscenes_like(frames=1), "1 frames"),
        "few frames": (nuscenes_like(frames=31), "7 keyframes"),
        "mixed rates": (changed(ts=np.cumsum([0.1] * 28 + [0.5] * 28)), "time steps of 0.1 to 0.5 s"),
        "odd rate": (changed(ts=0.3 * np.arange(FRAMES)), "between frames"),
        "no times": (changed(ts=None), "metadata ts"),
        "falling times": (changed(ts=-0.1 * np.arange(FRAMES)), "metadata ts"),
        "code": ({**nuscenes_like(), "x": Evil()}, "more than data"),
    }
    no_lanes = nuscenes_like()
    no_lanes["map_features"] = {"boundary_0": no_lanes["map_features"]["boundary_0"]}
    cases["no lanes"] = no_lanes, "a map without lanes"
    far = nuscenes_like()
    for feature in far["map_features"].values():
        feature["polyline"] = np.asarray(feature["polyline"])[:, :2] + 5000.0
        feature.pop("polygon", None)
    cases["map elsewhere"] = far, "no lane near the ego's drive"
    tall = waymo_like()
    for feature in tall["map_features"].values():
        if "polyline" in feature:
            feature["polyline"][:, 2] += 40
    cases["heights"] = tall, "no lane at the ego's height"
    for name, key, value, match in (
        ("nan", "position", np.nan, "not finite"), ("far", "position", 1e12, "far too large"),
        ("tower", "height", 30.0, "heights up to"), ("flat", "width", 0.0, "sizes of"),
    ):  # fmt: skip
        one = nuscenes_like()
        one["tracks"]["a"]["state"][key][:] = value
        cases[name] = one, match
    short = nuscenes_like()
    short["tracks"]["a"] = track(np.arange(40.0), 0, (4, 2, 2), "VEHICLE")
    cases["track of another length"] = short, "position of track a"
    gone = nuscenes_like()
    gone["tracks"]["ego"]["state"]["valid"][:] = 0
    cases["ego never seen"] = gone, "0 keyframes"
    points = nuscenes_like()
    points["map_features"]["lane-1"]["polyline"] = [[1, 2], [3]]
    cases["ragged"] = points, "map feature lane-1"
    return cases


@pytest.mark.parametrize("case", sorted(_broken()))
def test_refused(tmp_path: Path, case: str) -> None:
    scenario, match = _broken()[case]
    path = tmp_path / "sd_x.pkl"
    path.write_bytes(pickle.dumps(scenario))
    with pytest.raises(DataError, match=match) as error:
        read_scenario(path)
    assert str(path) in error.value.found and error.value.expected and error.value.remedy


def test_truncated(tmp_path: Path) -> None:
    path = write_scenario(tmp_path, nuscenes_like())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="intact pickle"):
        read_scenario(path)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inside in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from _places(inside, (*path, key))


@pytest.mark.parametrize("made", [nuscenes_like, waymo_like])
def test_nonsense_anywhere_is_refused_or_not_needed(tmp_path: Path, made: Callable[[], dict[str, Any]]) -> None:
    """One value after another is replaced: the scenario is still read, or it is a `DataError`."""
    junk: list[Any] = [None, "x", {}, [], 2**70, [[1, 2], [3]], np.array(["a"]), np.full((40, 3), np.inf), [None] * 40]
    whole = pickle.dumps(made())
    refused = 0
    for number, place in enumerate(_places(made())):
        scenario = pickle.loads(whole)
        inner = scenario
        for key in place[:-1]:
            inner = inner[key]
        for value in (junk[number % len(junk)], junk[(number + 4) % len(junk)]):
            inner[place[-1]] = value
            try:
                read(tmp_path, {"id": "scene", **scenario})
            except DataError:
                refused += 1
    assert refused > number


REAL_SCENARIOS = find_scenarios(REAL / "scenarionet")


@pytest.mark.skipif(not REAL_SCENARIOS, reason="no real scenarios here")
def test_real_files() -> None:
    found = {scenario.name: scenario for path in REAL_SCENARIOS for scenario in read_scenario(path)}
    assert len(found) == len(REAL_SCENARIOS) and {s.source for s in found.values()} == {"nuscenes", "waymo"}
    infos = load_pickle(REAL / "infos/world-nuscenes_mini_infos_val.pkl")["infos"]
    for name in ("scene-0103", "scene-0916"):
        ego = found[name].ego[:, :2]
        true = np.array([i["ego2global_translation"][:2] for i in infos])
        chosen = [i for i in range(len(true)) if np.hypot(*(true[i] - ego[0])) < 0.2]
        error = np.hypot(*(true[chosen[0] : chosen[0] + len(ego)] - ego).T)
        assert error.mean() < 0.25 and error.max() < 0.7  # 0.5 and 1.3 m at nominal times
