"""ZIP file of a study's labelled images, for clients."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samstudent.errors import Conflict
from samstudent.imaging.value_names import sidecar_of


def write_archive(cases: Sequence[Mapping[str, str]], metadata: Mapping[str, Any]) -> str:
    """Write images, labels, names of the labels' values, and the list. Returns the path; the caller deletes the file.

    Args:
        cases: paths of ``image`` and ``label``.
        metadata: list of the study.

    Raises:
        Conflict: there is no case.
    """
    if not cases:
        raise Conflict("no case has a final label, so there is nothing to export")
    handle, path = tempfile.mkstemp(suffix=".zip")
    with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for case in cases:
            for kind, source in case.items():
                archive.write(source, f"{kind}/{os.path.basename(source)}")
            if (beside := sidecar_of(Path(case["label"]))).is_file():
                archive.write(beside, f"label/{beside.name}")
        archive.writestr("metadata.json", json.dumps(metadata, default=str))
    return path
