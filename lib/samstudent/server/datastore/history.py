"""Earlier versions of labels that humans drew: nothing a human drew is ever deleted or overwritten."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from samstudent.imaging.value_names import KEY
from samstudent.util.files import atomic_path, atomic_write


class History:
    """``<labels>/.history/<tag>/<id>/<time>-<number>-<digest><ext>``; each has its label info beside it, ``.json``."""

    def __init__(self, labels: Path) -> None:
        self.folder = labels / ".history"

    def keep(self, tag: str, case: str, info: dict[str, Any], file: Path, ext: str) -> Path:
        """Keep a label file and its info (key ``sha256`` set); returns the kept file. Equal content of one author and
        meaning is kept once in a row."""
        name = f"{info['sha256'][:12]}{ext}"
        before = self.versions(tag, case)
        same = [kept for kept in before if kept.name.endswith(name)]
        if same and _meaning(_info_beside(same[-1])) == _meaning(info):
            return same[-1]
        # In the order in which they came, also within a second, and where the clock was set back.
        now = max([time.strftime("%Y%m%dT%H%M%S"), *(version.name.split("-")[0] for version in before[-1:])])
        kept = self.folder / tag / case / f"{now}-{len(before):04}-{name}"
        # The info first: a label file without it could be misread, its voxel values are the client's own.
        atomic_write(kept.with_name(kept.name + ".json"), json.dumps(info, default=str))
        with atomic_path(kept) as temporary:
            shutil.copyfile(file, temporary)
        return kept

    def info_of(self, tag: str, case: str, sha256: str) -> dict[str, Any] | None:
        """The info that belonged to a label of exactly this content, if it was ever kept."""
        for kept in reversed(self.versions(tag, case)):
            info = _info_beside(kept)
            if info["sha256"] == sha256:
                return info
        return None

    def versions(self, tag: str, case: str) -> list[Path]:
        """Kept label files of a case, oldest first."""
        folder = self.folder / tag / case
        files = folder.iterdir() if folder.is_dir() else iter(())
        return sorted(p for p in files if p.suffix != ".json" and not p.name.startswith("."))


def _info_beside(kept: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(kept.with_name(kept.name + ".json").read_text(encoding="utf-8"))
    return info


def _meaning(info: dict[str, Any]) -> str:
    """Who drew a label, and what its values mean."""
    values = (info.get(KEY) or {}).get("values")
    return json.dumps([info.get("user"), info.get("label_info"), values], sort_keys=True, default=str)
