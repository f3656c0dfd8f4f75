"""Label folders beside nuScenes tables or info files: Occ3D labels, and predictions in the same layout.

    ROOT/gts/<scene name>/<sample token>/labels.npz     Occ3D labels
    ROOT/stc-results/...                                the same, predicted by STCOcc (`semantics` only)

So STCOcc is no format of its own: predictions are the labels that are observed, and Occ3D's are the truth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from world_model.core.errors import DataError


@dataclass(frozen=True, kw_only=True)
class LabelFolders:
    """Folders of the labels of a data set.

    Attributes:
        root: the data folder.
        labels: folder of the labels in it: "gts", "stc-results", ...
        truth: folder of the true labels, where those of ``labels`` are predictions.

    Raises:
        DataError: a folder does not exist.
    """

    root: Path
    labels: str = "gts"
    truth: str | None = None

    def __post_init__(self) -> None:
        for name in filter(None, (self.labels, self.truth)):
            folder = self.root / name
            if not folder.is_dir():
                beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
                raise DataError(
                    f"there is no label folder {folder} (beside it: {', '.join(beside[:8]) or 'nothing'})",
                    "<label folder>/<scene>/<sample token>/labels.npz",
                    "unpack the labels there, or name other folders with --label-folder and --truth-folder",
                )

    @property
    def name(self) -> str:
        """What real data with these labels are called."""
        return "nuscenes" if self.labels == "gts" else f"nuscenes, labels of {self.labels}"

    @property
    def dataset(self) -> str:
        """The data set that an environment id asks for."""
        return "stcocc" if self.truth else "nuscenes"

    def label_paths(self, places: Iterable[Path]) -> list[Path]:
        """Label files of <scene name>/<sample token> places."""
        return [self.root / self.labels / place / "labels.npz" for place in places]

    def truth_paths(self, places: Iterable[Path]) -> list[Path] | None:
        """Files of the true labels; None where the labels are the truth."""
        return [self.root / self.truth / place / "labels.npz" for place in places] if self.truth else None
