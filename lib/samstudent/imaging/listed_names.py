"""File names in the host's list of a study (``datastore_v2.json``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samstudent.imaging.file_names import case_id
from samstudent.imaging.image_paths import members_of

#: The host's list of images and labels, in the study folder.
LIST = "datastore_v2.json"


def server_list(study: Path) -> dict[str, Any]:
    """Content of ``datastore_v2.json``; empty if it is missing or unreadable."""
    try:
        content = json.loads((study / LIST).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def listed_by_server(folder: Path) -> dict[str, str]:
    """Case id -> name of the file in this folder that the server uses."""
    folder = folder.absolute()
    for study in (folder, folder.parent, folder.parent.parent):
        content = server_list(study)
        try:
            objects = content["objects"].items()
            if study / content["images_dir"] == folder:
                entries = [(case, entry["image"]) for case, entry in objects]
            elif study / content["labels_dir"] / folder.name == folder:
                entries = [(case, entry["labels"].get(folder.name)) for case, entry in objects]
            else:
                continue
            return {case_id(case): name_of(case, entry["ext"], entry["info"]) for case, entry in entries if entry}
        except (KeyError, TypeError, AttributeError):
            continue
    return {}


def name_of(case: str, extension: str, info: Mapping[str, Any]) -> str:
    """Name of a listed file. The host builds it from id and extension; the info holds names that differ from the id,
    and without an extension the path of a DICOM image below the folder."""
    name = info.get("name")
    if name == case + extension:
        return case + extension
    if not extension and isinstance(name, str) and _is_below(name):
        return name
    if isinstance(name, str) and name.endswith(extension) and "/" not in name:
        stem = name[: len(name) - len(extension)]
        if case_id(stem) == case_id(case):
            return name
    return case + extension


def _is_below(name: str) -> bool:
    """Whether a relative path leads to nothing outside of its folder, and nothing hidden."""
    if members := members_of(name):
        return all(map(_is_below, members))
    parts = name.split("/")
    return all(part and not part.startswith(".") and "\\" not in part and "\0" not in part for part in parts)
