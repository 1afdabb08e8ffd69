"""What the writers of an export have in common: their interface, and copies of images."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.exchange.channels import write_channels
from samstudent.exchange.study_cases import StudyCase
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, luminance
from samstudent.imaging.file_names import IMAGES, split_name
from samstudent.imaging.formats import kind_of
from samstudent.imaging.image_paths import ImagePath
from samstudent.imaging.label_writing import write_values
from samstudent.imaging.size_checks import is_gzip
from samstudent.rounds.case_store import compact
from samstudent.task import Task
from samstudent.util.files import atomic_path, atomic_write


class ExportFormat(Protocol):
    """Writer of one format.

    Attributes:
        folder: folder of the export.
    """

    folder: Path

    def add(self, case: StudyCase, image: CaseImage, label: LabelledMasks | None) -> None:
        """Write a case.

        Raises:
            UserError: the format cannot hold it.
            OSError: a file cannot be written.
        """

    def finish(self) -> list[str]:
        """Write what describes all cases. Returns remarks and the next command for the user."""


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def copy_image(image: CaseImage, target: Path) -> Path:
    """Copy an image as it is; a DICOM series or frame, and channels, become NIfTI. ``target``: without extension."""
    path = image.path
    if len(image.pixels) not in (1, 3) or image.windows or (path is not None and ImagePath.of(path).count):
        written = target.with_name(target.name + ".nii.gz")
        write_channels(written, compact(image.pixels), image.grid)
        return written
    if path is None or not path.is_file():
        written = target.with_name(target.name + ".nii.gz")
        write_values(written, compact(luminance(image.pixels)[0]), image.grid)
        return written
    extension = split_name(path.name, IMAGES)[1] or ".dcm"
    copied = target.with_name(target.name + extension)
    copy_file(path, copied)
    return copied


def with_channels(image: CaseImage, task: Task) -> NDArray[Any]:
    """Pixels (channels, *spatial) with as many channels as the task's students have; values as in the file.

    Raises:
        UserError: a colour image or channels where the task's image has another number.
    """
    count = task.image.count
    if count == 1:
        return luminance(image.pixels)
    if len(image.pixels) == 1:
        return np.repeat(image.pixels, count, axis=0)
    if len(image.pixels) != count:
        raise UserError(f"{image.path}: has {len(image.pixels)} channels, but the task's image.channels is {count}")
    return image.pixels


def write_nifti(image: CaseImage, pixels: NDArray[Any], target: Path) -> None:
    """One channel of an image as .nii.gz; a NIfTI file of one channel is copied, with its header.

    Args:
        image: the image.
        pixels: (*spatial), the channel.
        target: path ending in .nii.gz.

    Raises:
        UserError: its axes are not at right angles (a tilted gantry): ITK, and with it nnU-Net, refuses such NIfTI.
    """
    path = image.path
    if path is not None and path.is_file() and len(image.pixels) == 1 and kind_of(path) == "nifti":
        if is_gzip(path):
            copy_file(path, target)
        else:
            atomic_write(target, gzip.compress(path.read_bytes(), 6))
        return
    axes = image.grid.itk_affine[:3, :3] / np.linalg.norm(image.grid.itk_affine[:3, :3], axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise UserError(f"{path}: its axes are not at right angles (tilted gantry), which ITK refuses in NIfTI")
    write_values(target, compact(pixels), image.grid)
