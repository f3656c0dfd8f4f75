"""The notebook runs from top to bottom, and is small. Its stored pictures come from the same run:

PYTHONPATH=. python tests/examples/test_tour.py
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "tour.ipynb"
LARGEST_BYTES = 600_000


def executed(where: Path) -> dict[str, Any]:
    """The notebook after a run in a folder, in a kernel of its own."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(where)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # clock times
    found: dict[str, Any] = json.loads(nbformat.writes(notebook))
    return found


def outputs(notebook: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Of every cell with code."""
    return [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


def sizes(notebook: dict[str, Any]) -> list[tuple[int, int]]:
    """Width and height of every picture."""
    data = [
        out["data"]["image/png"] for cell in outputs(notebook) for out in cell if "image/png" in out.get("data", {})
    ]
    return [Image.open(io.BytesIO(base64.b64decode("".join(text)))).size for text in data]


def test_the_tour_runs(tmp_path: Path) -> None:
    notebook = executed(tmp_path)
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert len(sizes(notebook)) == 5 and sizes(notebook) == sizes(stored)
    assert not any(out["output_type"] == "error" for cell in outputs(notebook) for out in cell)
    assert not list(tmp_path.iterdir())


def test_the_stored_tour_is_small_and_complete() -> None:
    assert NOTEBOOK.stat().st_size <= LARGEST_BYTES
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    counts = [cell["execution_count"] for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    for cell in stored["cells"]:
        for line in "".join(cell["source"]).split("]("):
            target = line.split(")")[0]
            if target.startswith("../"):
                assert (NOTEBOOK.parent / target).exists(), target


if __name__ == "__main__":
    notebook = executed(ROOT)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size} bytes, pictures {sizes(notebook)}")
