"""The folder of all that is kept of a PACS study: its app folder, with rounds, labels, log and image cache."""

from __future__ import annotations

import os
from pathlib import Path

from samstudent.util.address import slug_of


def pacs_folder(url: str, data: Path | None = None) -> Path:
    """The folder of one PACS: ``~/.local/share/samstudent/<address>``, or below XDG_DATA_HOME.

    Args:
        url: of the DICOMweb server.
        data: folder that stands for ``~/.local/share``; None: as the environment says.
    """
    data = data or Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "samstudent" / slug_of(url)
