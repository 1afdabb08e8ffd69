"""Paths of one study's state on disk; nothing is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samstudent.util.address import is_pacs, slug_of
from samstudent.util.files import require_own


@dataclass(frozen=True)
class StudyPaths:
    """Paths of a study.

    Attributes:
        root: folder of all state.
        split_csv: file with the hold-out cases; need not exist.
    """

    root: Path
    split_csv: Path

    @classmethod
    def of(cls, studies: str, app_dir: str) -> StudyPaths:
        """Paths of a study.

        Args:
            studies: path of the study folder, or the URL of a DICOMweb server.
            app_dir: the app folder, with the state of studies that are no folder.

        Raises:
            Conflict: the state of a study folder is in another folder, by a link or a mount.
        """
        if is_pacs(studies):
            root = Path(app_dir) / "model" / slug_of(studies)
            return cls(root, root / "split.csv")
        root = Path(studies) / ".samstudent"
        require_own(root / "state", Path(studies))
        return cls(root, Path(studies) / "split.csv")

    @property
    def weights(self) -> Path:
        """Folder for initial weights that requests name without a path."""
        return self.root / "weights"

    def folder_of(self, task_name: str) -> Path:
        """Folder of the state of one task: rounds, hold-out, scores."""
        return self.root / task_name
