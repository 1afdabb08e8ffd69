"""Upright copies of images with an orientation tag, for clients: ITK and 3D Slicer ignore the tag."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from samstudent.errors import Unavailable, UserError
from samstudent.imaging.case import log_notes
from samstudent.imaging.formats import Stored, kind_of
from samstudent.imaging.raster import raster_orientation, read_raster_image
from samstudent.util.files import atomic_path

#: Extensions of files that can have an orientation tag.
_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


class UprightCopies:
    """Files ``<folder>/<image id>.png``, or ``.nrrd`` for pixel types that PNG does not support; created on demand.

    Args:
        folder: created with the first copy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, image_id: str, path: Path) -> Path:
        """File of an image for clients: an upright copy if it has an orientation tag, else the image itself.

        Args:
            image_id: stem of the copy's file name.
            path: file of the image; returned if it cannot be read.

        Raises:
            Unavailable: the copy cannot be written.
        """
        try:
            stat = path.stat()
            orientation = _orientation(path, stat.st_mtime_ns, stat.st_size)
            if orientation == 1:
                return path
            # The copy has the modification time of the image.
            for copy in self._copies(image_id):
                if copy.is_file() and copy.stat().st_mtime_ns == stat.st_mtime_ns:
                    return copy
            stored = read_raster_image(path, kind_of(path))
        except (UserError, OSError):
            return path
        log_notes(path, stored.notes)
        try:
            self.forget(image_id)
            return self._write(image_id, stored, stat)
        except OSError as error:
            raise Unavailable(
                f"{path}: the upright copy for viewers could not be written to {self.folder}: {error}"
            ) from error

    def forget(self, image_id: str) -> None:
        """Remove the copy of an image."""
        for copy in self._copies(image_id):
            copy.unlink(missing_ok=True)

    def _copies(self, image_id: str) -> Iterator[Path]:
        return (self.folder / f"{image_id}{extension}" for extension in (".png", ".nrrd"))

    def _write(self, image_id: str, stored: Stored, source: os.stat_result) -> Path:
        pixels = stored.pixels
        has_channels = pixels.ndim > len(stored.shape)
        if has_channels and pixels.shape[-1] == 2:  # grey with opacity
            pixels, has_channels = pixels[..., 0], False
        if pixels.dtype == np.float16:  # ITK has none
            pixels = pixels.astype(np.float32)
        image = sitk.GetImageFromArray(pixels, isVector=has_channels)
        image.SetSpacing([*np.abs(stored.affine.diagonal())[: len(stored.shape)]])
        is_png = len(stored.shape) == 2 and pixels.dtype in (np.uint8, np.uint16)
        png, nrrd = self._copies(image_id)
        copy = png if is_png else nrrd
        with atomic_path(copy) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            os.utime(temporary, ns=(source.st_atime_ns, source.st_mtime_ns))
        return copy


@lru_cache(maxsize=1 << 16)
def _orientation(path: Path, changed: int, size: int) -> int:
    """Orientation tag, cached by modification time and size of the file."""
    return raster_orientation(path, kind_of(path)) if path.name.lower().endswith(_EXTENSIONS) else 1
