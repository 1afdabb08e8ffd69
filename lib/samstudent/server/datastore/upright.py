"""Upright copies of images with an orientation tag, for clients: ITK, and with it 3D Slicer, shows them as stored."""

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

#: Files that can have an orientation, by their names; others are not opened.
_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


class UprightCopies:
    """``<folder>/<image id>.png``, or ``.nrrd`` for pixel types that PNG does not have; made when first asked for.

    Args:
        folder: made when there is a first copy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, image_id: str, path: Path) -> Path:
        """The file that clients get for an image: a copy if it has an orientation, else the image's own.

        Args:
            image_id: names the copy.
            path: the image's own file. An image that cannot be read is given as it is.

        Raises:
            Unavailable: the copy cannot be written.
        """
        try:
            stat = path.stat()
            orientation = _orientation(path, stat.st_mtime_ns, stat.st_size)
            if orientation == 1:
                return path
            # The copy has the time of what it was made of.
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
                f"{path}: no upright copy for viewers can be written to {self.folder}: {error}"
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
    """Read once, as long as the file's time and size stay."""
    return raster_orientation(path, kind_of(path)) if path.name.lower().endswith(_EXTENSIONS) else 1
