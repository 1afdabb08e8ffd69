"""Where one study's state lies, and the parts that share it. See docs/explanation/architecture.md, "State on disk"."""

from __future__ import annotations

import re
import threading
from functools import cached_property
from pathlib import Path

from samstudent.rounds.holdout import HoldOut
from samstudent.rounds.ledger import Ledger
from samstudent.sam.backends import SamBackend, load_backend
from samstudent.sam.cache import EmbeddingCache
from samstudent.selection.state import SelectionState
from samstudent.task import Task


class Study:
    """One study folder (or PACS) worked on with one task: its folders, and the parts that read and write them.

    Args:
        studies: path of the study folder, or the URL of a DICOMweb server.
        app_dir: the app folder; holds the state of studies that are no folder.
        task: the checked task.
    """

    def __init__(self, studies: str, app_dir: str, task: Task) -> None:
        self.task = task
        self.is_remote = studies.startswith(("http://", "https://"))
        if self.is_remote:
            slug = re.sub(r"\W+", "-", studies.split("://", 1)[1]).strip("-")
            self.root = Path(app_dir) / "model" / slug
            self.split_csv: Path | None = None
        else:
            self.root = Path(studies) / ".samstudent"
            self.split_csv = Path(studies) / "split.csv"
        self.folder = self.root / task.name
        self._sam: SamBackend | None = None
        self._sam_lock = threading.Lock()

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.folder)

    @cached_property
    def holdout(self) -> HoldOut:
        return HoldOut(self.folder / "holdout.json", self.task.holdout.fraction, self.split_csv)

    @cached_property
    def selection(self) -> SelectionState:
        return SelectionState(self.folder / "state.sqlite")

    @cached_property
    def embeddings(self) -> EmbeddingCache:
        # Shared by all tasks of a study: the same image gives the same embedding.
        return EmbeddingCache(self.root / "embeddings")

    def sam(self) -> SamBackend:
        """The SAM backend, loaded when first asked for: the host's child processes that need it load their own."""
        with self._sam_lock:
            if self._sam is None:
                self._sam = load_backend(self.task.sam)
            return self._sam
