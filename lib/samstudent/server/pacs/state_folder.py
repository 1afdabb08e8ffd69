"""App folder of a PACS study, with rounds, labels, log and image cache."""

from __future__ import annotations

import os
from pathlib import Path

from samstudent.util.address import slug_of


def pacs_folder(url: str, data: Path | None = None) -> Path:
    """Folder of one PACS: ``~/.local/share/samstudent/<address>``, or below XDG_DATA_HOME.

    Args:
        url: URL of the DICOMweb server.
        data: folder in place of ``~/.local/share``; None: of the environment.
    """
    data = data or Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "samstudent" / slug_of(url)
