"""What is written in several places agrees: dependencies, versions, packaged files, pages of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ii_world_env import doctor

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings tomli there
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def configuration() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_oldest_constraints_are_the_lower_bounds(configuration: dict[str, Any]) -> None:
    bounds = dict(line.split(">=") for line in configuration["project"]["dependencies"])
    lines = (ROOT / "tests" / "constraints-oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert oldest.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert f"{oldest[name]}.".startswith(f"{bound}."), f"{name}: lower bound {bound}, tested {oldest[name]}"


def test_doctor_reports_every_dependency(configuration: dict[str, Any]) -> None:
    required = {line.split(">=")[0] for line in configuration["project"]["dependencies"]}
    assert required == set(doctor.REQUIRED) - {"iiworld"}


def test_python_versions_agree(configuration: dict[str, Any]) -> None:
    project = configuration["project"]
    listed = [c.split()[-1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert project["requires-python"] == f">={listed[0]}"
    tested = re.findall(r'python: "(3\.\d+)"', (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert set(tested) <= set(listed) and {listed[0], listed[-1]} <= set(tested)


def test_one_version(configuration: dict[str, Any]) -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {configuration['project']['version']}\n" in citation


def test_assets_and_type_marks_are_packaged(configuration: dict[str, Any]) -> None:
    packaged = configuration["tool"]["setuptools"]["package-data"]
    for package, patterns in packaged.items():
        assert all(any((ROOT / package).glob(pattern)) for pattern in patterns), package
        assert "py.typed" in patterns
    assets = set((ROOT / "world_model").glob("assets/**/*"))
    assert {path.suffix for path in assets} >= {".safetensors", ".npz", ".json"}


def test_every_page_is_in_the_navigation_once() -> None:
    pages = re.findall(r"(?:- |: )([a-z_/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    docs = ROOT / "docs"
    assert sorted(pages) == sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))


def test_bug_reports_ask_for_the_doctor() -> None:
    assert "python -m ii_world_env.doctor" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()
