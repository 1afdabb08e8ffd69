"""DICOM SEG as the form of an inference result, for viewers of a PACS."""

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
    """DICOM file or folder of a case.

    Raises:
        UserError: the image is not DICOM.
    """
    path = Path(datastore.get_image_uri(image)) if image else None
    if path is None or not (path.is_dir() or _is_dicom(path)):
        raise UserError(
            "output=dicom_seg requires a DICOM image (a DICOMweb study, or .dcm files); use output=image or all"
        )
    return path


def _is_dicom(path: Path) -> bool:
    try:
        return kind_of(path) == "dicom"
    except UserError:
        return False  # not an image


def write_dicom_seg(context: ServerContext, path: Path, model: str, source: Path, result: Path) -> None:
    """Write the masks of a model as DICOM SEG, with one segment for each structure that is not empty.

    Args:
        context: parts of the server.
        path: file to write.
        model: name of the model.
        source: DICOM file or folder of the image.
        result: masks of the model, a .seg.nrrd file.
    """
    task = context.task
    image = read_image(source, task.dimension)
    masks = read_masks(result, task, image.grid)
    present = [name for name, mask in zip(task.names, masks, strict=True) if mask.any()]
    provenance = {}
    if model.startswith("student") and (champion := context.study.ledger.champion()):
        provenance["student"] = str(champion.model_digest)
    if "sam" in model:
        provenance["sam_digest"] = context.study.sam().digest
    description = SegDescription(
        title=f"{model}, task {task.name}",
        # "sam" is prompted by clicks of a user; the other models run automatically.
        algorithm="SEMIAUTOMATIC" if model == "sam" else "AUTOMATIC",
        name=model,
        provenance=provenance,
        structures=present or None,
    )
    write_seg(path, masks, task, image.grid, source, description)
