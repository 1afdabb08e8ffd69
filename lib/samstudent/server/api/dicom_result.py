"""DICOM SEG as the form of an inference result, for viewers of a PACS."""

from __future__ import annotations

from pathlib import Path

from monailabel.interfaces.datastore import Datastore

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_seg_write import write_seg
from samstudent.imaging.labels import read_masks
from samstudent.inference.result_files import is_dicom, seg_description
from samstudent.server.context import ServerContext


def require_dicom(datastore: Datastore, image: str) -> Path:
    """DICOM file or folder of a case.

    Raises:
        UserError: the image is not DICOM.
    """
    path = Path(datastore.get_image_uri(image)) if image else None
    if path is None or not is_dicom(path):
        raise UserError(
            "output=dicom_seg requires a DICOM image (a DICOMweb study, or .dcm files); use output=image or all"
        )
    return path


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
    provenance = {"model": model}
    if model.startswith("student") and (champion := context.study.ledger.champion()):
        provenance["student"] = str(champion.model_digest)
    if "sam" in model:
        provenance["sam_digest"] = context.study.sam().digest
    write_seg(path, masks, task, image.grid, source, seg_description(masks, task, provenance))
