"""A model's masks as DICOM SEG, the form that viewers of a PACS take."""

from __future__ import annotations

from pathlib import Path

from monailabel.interfaces.datastore import Datastore

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_seg_write import SegDescription, write_seg
from samstudent.imaging.formats import kind_of
from samstudent.imaging.labels import read_masks
from samstudent.server.context import ServerContext


def require_dicom(datastore: Datastore, image: str) -> Path:
    """The DICOM file or folder of a case.

    Raises:
        UserError: it is something else.
    """
    path = Path(datastore.get_image_uri(image)) if image else None
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


def write_answer(context: ServerContext, path: Path, model: str, source: Path, drawn: Path) -> None:
    """Write what a model has drawn as DICOM SEG, with a segment for each structure that is there.

    Args:
        context: of the server.
        path: to be written.
        model: who drew.
        source: the case's DICOM file or folder.
        drawn: the model's masks, a .seg.nrrd file.
    """
    task = context.task
    image = read_image(source, task.dimension)
    masks = read_masks(drawn, task, image.grid)
    present = [name for name, mask in zip(task.names, masks, strict=True) if mask.any()]
    provenance = {}
    if model.startswith("student") and (champion := context.study.ledger.champion()):
        provenance["student"] = str(champion.model_digest)
    if "sam" in model:
        provenance["sam_digest"] = context.study.sam().digest
    description = SegDescription(
        title=f"{model}, task {task.name}",
        # A click is a human's; a student draws alone.
        algorithm="SEMIAUTOMATIC" if model == "sam" else "AUTOMATIC",
        name=model,
        provenance=provenance,
        structures=present or None,
    )
    write_seg(path, masks, task, image.grid, source, description)
