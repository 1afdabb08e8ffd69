"""Copies in one file, for clients, of DICOM volumes and frames, and of one channel of several.

Clients download a case as one file, as 3D Slicer does.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from samstudent.errors import Unavailable
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom import read_dicom
from samstudent.imaging.folder import stamp_of
from samstudent.imaging.formats import Stored
from samstudent.imaging.grid import LPS_TO_RAS
from samstudent.imaging.image_paths import ImagePath
from samstudent.imaging.perpendicular import upright
from samstudent.server.datastore.viewer_grid import TiltedVolumes
from samstudent.util.files import atomic_path

#: Endings of files with several channels that clients would load as a time series or a vector.
_WITH_CHANNELS = (".nii.gz", ".nii", ".nrrd")


class VolumeCopies:
    """Files ``<folder>/<case id>/<state of the source>/<case id>.nii.gz``, of frames ``.nrrd``; created on demand.

    Args:
        folder: created with the first copy.
        channel: index of the copied channel of images with several.
    """

    def __init__(self, folder: Path, channel: int = 0) -> None:
        self.folder, self.channel = folder, channel
        self._tilted = TiltedVolumes()

    def is_needed(self, path: Path) -> bool:
        """Whether an image is not one file that clients can read."""
        image = ImagePath.of(path)
        if image.channels:
            return True
        if image.count is not None:
            return image.place.name.lower().endswith(_WITH_CHANNELS)
        return image.frame is not None or image.place.is_dir()

    def place(self, case: str, path: Path) -> Path:
        """Path of the copy, which need not exist.

        Args:
            case: id of the case.
            path: the image.
        """
        state = hashlib.sha256(f"{path} {stamp_of(path)} {self.channel}".encode()).hexdigest()[:16]
        ending = ".nii.gz" if ImagePath.of(path).frame is None else ".nrrd"
        return self.folder / case / state / f"{case}{ending}"

    def of(self, case: str, path: Path) -> Path:
        """The copy of an image.

        Raises:
            UserError: the image cannot be read. Unavailable: the copy cannot be written.
        """
        copy = self.place(case, path)
        if copy.is_file():
            return copy
        image = ImagePath.of(path)
        stored = self._channel(path) if image.channels or image.count is not None else read_dicom(path)
        try:
            self.forget(case)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if copy.suffix == ".nrrd":
                save_frame(stored, copy)
            else:
                save_for_viewer(stored, copy)
        except OSError as error:
            raise Unavailable(f"{path}: the copy for viewers could not be written to {self.folder}: {error}") from error
        return copy

    def tilted(self, case: str, path: Path) -> Path | None:
        """The copy of a volume with a tilted gantry, whose grid differs from the image's; None: any other image.
        Several channels have the grid of their copy (``case.join_channels``).

        Raises:
            UserError: the image cannot be read.
        """
        image = ImagePath.of(path)
        if not image.place.is_dir() or image.channels:
            return None
        return self.of(case, path) if self._tilted.has(self.place(case, path), lambda: path) else None

    def _channel(self, path: Path) -> Stored:
        """The copied channel of an image with several, (k, j, i), on the case's grid, where ITK places it."""
        image = read_image(path)
        pixels = image.grid.to_file(image.pixels)[self.channel]
        shape = (1,) * (3 - pixels.ndim) + pixels.shape
        return Stored(pixels.reshape(shape), shape, image.grid.itk_affine)

    def forget(self, case: str) -> None:
        """Remove the copies of a case."""
        shutil.rmtree(self.folder / case, ignore_errors=True)


def save_for_viewer(stored: Stored, path: Path) -> None:
    """Write a volume (k, j, i) as NIfTI with perpendicular axes, as ITK requires."""
    stored = upright(stored)
    pixels = stored.pixels.transpose(2, 1, 0)
    fits_int16 = np.array_equal(pixels, np.round(pixels)) and np.abs(pixels).max(initial=0) < 2**15
    values = pixels.astype(np.int16 if fits_int16 else np.float32)
    image: Any = nibabel.Nifti1Image(values, stored.affine)  # type: ignore[no-untyped-call]
    # Both, because programs differ in which one they use.
    image.set_qform(stored.affine, code=1)
    image.set_sform(stored.affine, code=1)
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def save_frame(stored: Stored, path: Path) -> None:
    """Write one frame (1, j, i), grey or RGB, as NRRD."""
    pixels = stored.pixels
    has_channels = pixels.ndim > len(stored.shape)
    image: Any = sitk.GetImageFromArray(pixels.astype(np.uint8) if has_channels else pixels, isVector=has_channels)
    lps = LPS_TO_RAS @ stored.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)  # type: ignore[no-untyped-call]
