"""Registered images of one case in several files as one image with channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.formats import kind_of
from samstudent.imaging.grid import Grid
from samstudent.rounds.case_store import compact
from samstudent.task import Task
from samstudent.util.files import atomic_path, atomic_write


def combine_channels(files: Sequence[Path], task: Task, target: Path) -> Path:
    """One image of a case's channels, PNG for PNG files of up to 16 bits, else NIfTI.

    Args:
        files: a file for each channel, of one grid.
        task: the task with ``image.channels``.
        target: path of the image without extension.

    Returns:
        Path of the image.

    Raises:
        UserError: the task has another number of channels, a file has several or cannot be read, or the files have
            different grids.
    """
    if task.image.count != len(files):
        raise UserError(
            f"has {len(files)} channels ({', '.join(file.name for file in files)}), but the task's image.channels is "
            f"{task.image.count}; choose one by --channel"
        )
    images = [read_image(file, task.dimension) for file in files]
    for image, file in zip(images, files, strict=True):
        if len(image.pixels) != 1:
            raise UserError(f"{file}: has {len(image.pixels)} channels itself; expected one")
        if not _same_grid(image.grid, images[0].grid):
            raise UserError(f"{file}: has another size or place than {files[0].name}; channels must be registered")
    pixels = compact(np.concatenate([image.pixels for image in images]))
    is_colour = task.dimension == 2 and not task.image.sequences
    if is_colour and kind_of(files[0]) == "png" and pixels.dtype in (np.uint8, np.uint16):
        path = target.with_name(target.name + ".png")
        atomic_write(path, bytes(imagecodecs.png_encode(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))))
        return path
    path = target.with_name(target.name + ".nii.gz")
    write_channels(path, pixels, images[0].grid)
    return path


def _same_grid(one: Grid, other: Grid) -> bool:
    return one.shape == other.shape and np.allclose(one.affine, other.affine, atol=1e-3)


def write_channels(path: Path, pixels: NDArray[Any], grid: Grid) -> None:
    """Vector image (i, j, k, 1, channels), as ITK writes colours. ``pixels``: (channels, *spatial), canonical."""
    stored = grid.to_file(pixels)
    if len(grid.shape) == 2:
        stored = stored[:, None]
    data = np.ascontiguousarray(stored.transpose(3, 2, 1, 0)[..., None, :])
    image: Any = nibabel.Nifti1Image(data, grid.itk_affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    image.header.set_intent("vector")
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)
