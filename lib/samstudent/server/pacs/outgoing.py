"""Export of labels to the PACS as DICOM SEG, in the DICOM study of the image."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samstudent.imaging.annotations import read_label
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_seg_write import SegDescription, write_seg
from samstudent.imaging.label_tags import FINAL
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.server.pacs.pacs_study import PacsStudy
from samstudent.task import Task


def send(study: PacsStudy, case: str, tag: str, uids: tuple[str, str]) -> None:
    """Store a label in the PACS as a SEG: of a human's the annotated structures, of a pseudo label the accepted ones.

    A segment without pixels means that its structure is absent, so a structure that is not annotated has no segment;
    the series description and Image Comments name it.

    Args:
        study: study with image and label.
        case: its id.
        tag: of the label.
        uids: Series and SOP Instance UID of the SEG.

    Raises:
        Unavailable: the PACS does not accept it, or does not send the image.
        UserError: the label does not fit its image.
    """
    task = study.task
    info = study.get_label_info(case, tag)
    image = read_image(study.get_image_uri(case), task.dimension)
    label = study.get_label_uri(case, tag)
    drawn = read_label(label, task, image.grid, names=names_for_reading(Path(label), info))
    assert image.path is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "label.dcm"
        annotated = [name for name, is_known in zip(task.names, drawn.annotated, strict=True) if is_known]
        is_final = tag == FINAL
        description = describe_label(task, info, uids, annotated) if is_final else describe_pseudo(task, info, uids)
        study.pacs.store(write_seg(path, drawn.masks, task, image.grid, image.path, description))


def accepted(info: Mapping[str, Any]) -> list[str]:
    """The structures of a pseudo label that are good enough to be shown to others."""
    return [name for name, found in info.get("structures", {}).items() if found.get("status") == "accepted"]


def describe_label(
    task: Task, info: Mapping[str, Any], uids: tuple[str, str], annotated: Sequence[str]
) -> SegDescription:
    """Description of a human's label: its author, the assisting models, and the structures that are not annotated.

    The latter are in the title, too, for viewers that show only the description of the series.
    """
    helped = [str(model) for model in info.get("assisted_by") or []]
    not_annotated = [name for name in task.names if name not in annotated]
    return SegDescription(
        title=f"Label, task {task.name}" + (f"; not annotated: {', '.join(not_annotated)}" if not_annotated else ""),
        algorithm="SEMIAUTOMATIC" if helped else "MANUAL",
        name=", ".join(helped) or "samstudent",
        provenance={"label": str(info.get("sha256", ""))},
        creator=str(info.get("user") or info.get("client_id") or ""),
        time=float(info.get("time") or 0) or None,
        uids=uids,
        structures=annotated,
        not_annotated=not_annotated,
    )


def describe_pseudo(task: Task, info: Mapping[str, Any], uids: tuple[str, str]) -> SegDescription:
    """Description of a pseudo label: student, SAM and recipe that made it, and its quality."""
    structures = info.get("structures", {})
    quality = {name: float(found["quality"]) for name, found in structures.items() if found.get("quality") is not None}
    provenance = {key: str(value) for key, value in info.get("provenance", {}).items() if key != "time"}
    return SegDescription(
        title=f"Pseudo label, task {task.name}",
        algorithm="AUTOMATIC",
        name="student+sam",
        provenance=provenance,
        quality=quality,
        time=float(info.get("time") or 0) or None,
        uids=uids,
        structures=accepted(info),
    )
