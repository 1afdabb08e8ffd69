"""History of human labels: earlier versions are never deleted or overwritten."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from samstudent.imaging.value_names import KEY
from samstudent.util.files import atomic_path, atomic_write


class History:
    """Files ``<labels>/.history/<tag>/<id>/<time>-<number>-<digest><ext>``, each with metadata in a ``.json`` file."""

    def __init__(self, labels: Path) -> None:
        self.folder = labels / ".history"

    def store(self, tag: str, case: str, info: dict[str, Any], file: Path, ext: str) -> Path:
        """Copy a label file and its metadata (with ``sha256``) into the history; returns the copy.

        No copy is made if the last version has the same content, author and names of values.
        """
        name = f"{info['sha256'][:12]}{ext}"
        before = self.versions(tag, case)
        same = [version for version in before if version.name.endswith(name)]
        if same and _author_and_names(version_info(same[-1])) == _author_and_names(info):
            return same[-1]
        # Sorted by name in the order of storage, also within a second and after the clock was set back.
        now = max([time.strftime("%Y%m%dT%H%M%S"), *(version.name.split("-")[0] for version in before[-1:])])
        copy = self.folder / tag / case / f"{now}-{len(before):04}-{name}"
        # The metadata first: without it the values of a label map could be misread.
        atomic_write(copy.with_name(copy.name + ".json"), json.dumps(info, default=str))
        with atomic_path(copy) as temporary:
            shutil.copyfile(file, temporary)
        return copy

    def info_of(self, tag: str, case: str, sha256: str) -> dict[str, Any] | None:
        """Metadata of the last version with this content, or None."""
        for version in reversed(self.versions(tag, case)):
            info = version_info(version)
            if info["sha256"] == sha256:
                return info
        return None

    def versions(self, tag: str, case: str) -> list[Path]:
        """Label files of a case in the history, oldest first."""
        folder = self.folder / tag / case
        files = folder.iterdir() if folder.is_dir() else iter(())
        return sorted(p for p in files if p.suffix != ".json" and not p.name.startswith("."))


def version_info(version: Path) -> dict[str, Any]:
    """Metadata of a label file in the history."""
    info: dict[str, Any] = json.loads(version.with_name(version.name + ".json").read_text(encoding="utf-8"))
    return info


def _author_and_names(info: dict[str, Any]) -> str:
    """Author of a label and names of its values, for comparison."""
    values = (info.get(KEY) or {}).get("values")
    return json.dumps([info.get("user"), info.get("label_info"), values], sort_keys=True, default=str)
