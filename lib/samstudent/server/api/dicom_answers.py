"""Answers that the host cannot give: a model's masks as DICOM SEG, and a case of a PACS as one file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi.background import BackgroundTasks
from fastapi.responses import FileResponse
from monailabel.utils.others.generic import get_mime_type, remove_file

from samstudent.errors import NotFound, UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_seg_write import About, write_seg
from samstudent.imaging.formats import kind_of
from samstudent.imaging.labels import read_masks

if TYPE_CHECKING:
    from samstudent.server.app import SamstudentApp


def require_dicom(app: SamstudentApp, image: str) -> Path:
    """The DICOM file or folder of a case; UserError where it is something else."""
    path = Path(app.datastore().get_image_uri(image)) if image else None
    if path is None or not (path.is_dir() or _is_dicom(path)):
        raise UserError(
            "output=dicom_seg needs a case that is DICOM (a DICOMweb study, or .dcm files); take output=image or all"
        )
    return path


def _is_dicom(path: Path) -> bool:
    try:
        return kind_of(path) == "dicom"
    except UserError:
        return False  # no image at all


def as_seg(app: SamstudentApp, tasks: BackgroundTasks, model: str, source: Path, drawn: Path) -> FileResponse:
    """What a model has drawn as DICOM SEG, with a segment for each structure that is there.

    Args:
        app: the server's.
        tasks: done after answering; they remove the file.
        model: who drew.
        source: the case's DICOM file or folder.
        drawn: its .seg.nrrd.
    """
    task = app.task
    image = read_image(source, task.dimension)
    masks = read_masks(drawn, task, image.grid)
    present = [name for name, mask in zip(task.names, masks, strict=True) if mask.any()]
    provenance = {}
    if model.startswith("student") and (champion := app.study.ledger.champion()):
        provenance["student"] = str(champion.model_digest)
    if "sam" in model:
        provenance["sam_digest"] = app.study.sam().digest
    about = About(
        description=f"{model}, task {task.name}",
        # A click is a human's; a student draws alone.
        algorithm="SEMIAUTOMATIC" if model == "sam" else "AUTOMATIC",
        name=model,
        provenance=provenance,
    )
    handle, path = tempfile.mkstemp(suffix=".dcm")
    os.close(handle)
    tasks.add_task(remove_file, path)
    write_seg(Path(path), masks, task, image.grid, source, about, present or None)
    return FileResponse(path, media_type="application/dicom", filename="segmentation.dcm")


def download(find: Callable[[str], Path], image: str, check_only: bool) -> Any:
    """A case as the one file that viewers get: of a volume from a PACS a NIfTI, of a photograph an upright copy."""
    path = find(image)
    if not path.is_file():
        raise NotFound(f"image {image!r}: its file is gone")
    if check_only:
        return {}
    name = f"{image}{''.join(path.suffixes[-2:]) if path.name.endswith('.nii.gz') else path.suffix}"
    return FileResponse(path, media_type=get_mime_type(str(path)), filename=name)
