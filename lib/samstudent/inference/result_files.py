"""Files of predicted masks: label maps, .seg.nrrd, and DICOM SEG with the origin of the masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.dicom_seg_write import SegDescription, write_seg
from samstudent.imaging.formats import kind_of
from samstudent.imaging.grid import Grid
from samstudent.imaging.image_paths import ImagePath
from samstudent.imaging.label_writing import write_masks
from samstudent.task import Task
from samstudent.util.files import atomic_path

DICOM = ".dcm"
#: Formats of the command line and the endings of their files.
FORMATS = {
    "seg.nrrd": ".seg.nrrd",
    "nrrd": ".nrrd",
    "nii.gz": ".nii.gz",
    "nii": ".nii",
    "png": ".png",
    "tif": ".tif",
    "dicom": DICOM,
}
_PICTURES = ("png", "tif")


def ending_of(format_name: str, task: Task) -> str:
    """Ending of the files of a format.

    Raises:
        UserError: no such format, or one that cannot hold a volume for a 3D task.
    """
    if format_name not in FORMATS:
        raise UserError(f"format {format_name!r}: use one of {', '.join(FORMATS)}")
    if task.dimension == 3 and format_name in _PICTURES:
        others = ", ".join(name for name in FORMATS if name not in _PICTURES)
        raise UserError(f"format {format_name!r} cannot hold the volumes of task {task.name!r}: use one of {others}")
    return FORMATS[format_name]


def write_result(
    path: Path, masks: NDArray[Any], task: Task, grid: Grid, source: Path | None, provenance: Mapping[str, str]
) -> Path:
    """Write masks in the format of the path's ending, atomically, and return the path.

    Args:
        path: file to write.
        masks: bool (S, *spatial), canonical.
        task: names and values of the structures.
        grid: grid of the image.
        source: file or folder of the image; only DICOM SEG needs it.
        provenance: ``model`` and versions, for DICOM SEG.

    Raises:
        UserError: as ``write_masks``; DICOM SEG of an image that is not DICOM.
    """
    if not path.name.lower().endswith(DICOM):
        write_masks(path, masks, task, grid)
        return path
    if source is None or not is_dicom(source):
        raise UserError(f"{source or 'an array'}: DICOM SEG needs a DICOM image; use another format")
    with atomic_path(path) as temporary:
        write_seg(temporary, masks, task, grid, source, seg_description(masks, task, provenance))
    return path


def is_dicom(path: Path) -> bool:
    """Whether an image is a DICOM file, a frame of one, or a series in a folder."""
    place = ImagePath.of(path).place
    try:
        return place.is_dir() or kind_of(place) == "dicom"
    except UserError:
        return False  # not an image


def seg_description(masks: NDArray[Any], task: Task, provenance: Mapping[str, str]) -> SegDescription:
    """Description of a model's masks bool (S, *spatial), with a segment for each structure that is not empty.

    Args:
        masks: of all structures.
        task: the task.
        provenance: ``model``, the name of the model, and digests of what made the masks.
    """
    model = provenance["model"]
    present = [name for name, mask in zip(task.names, masks, strict=True) if mask.any()]
    return SegDescription(
        title=f"{model}, task {task.name}",
        # "sam" is prompted by clicks of a user, or by given masks; the other models run automatically.
        algorithm="SEMIAUTOMATIC" if model == "sam" else "AUTOMATIC",
        name=model,
        provenance={key: value for key, value in provenance.items() if key != "model"},
        structures=present or None,
    )
