"""Images of the PACS on this disk: fetched when first needed, whole or not at all, and not more than allowed."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from samstudent.errors import Unavailable
from samstudent.imaging.dicom import read_dicom
from samstudent.imaging.formats import Stored
from samstudent.server.pacs.client import Pacs
from samstudent.server.pacs.listing import Reference
from samstudent.server.pacs.upright import upright
from samstudent.util.files import atomic_path

logger = logging.getLogger(__name__)

#: What was used within this time is not thrown away: a training may be about to read it.
IN_USE_SECONDS = 3600.0
#: Space is counted no more often than this.
COUNT_SECONDS = 60.0


class ImageCache:
    """``<folder>/<case id>/images/<SOP Instance UID>.dcm``, and beside ``images`` what viewers are given.

    Args:
        folder: made if missing; may be shared by several studies and processes.
        pacs: where images come from.
        most_bytes: thrown away is, above this, what was not used for the longest time.
        is_dear: says of a case id that it should go last (it is labelled, and every round reads it).
    """

    def __init__(self, folder: Path, pacs: Pacs, most_bytes: float, is_dear: Callable[[str], bool]) -> None:
        self.folder, self.pacs = folder, pacs
        self.most_bytes, self.is_dear = most_bytes, is_dear
        self._counted = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, reference: Reference) -> Path:
        """Where the image is or will be: a file, of a volume a folder."""
        images = self.folder / reference.case / "images"
        return images / f"{reference.image}.dcm" if reference.image else images

    def has(self, reference: Reference) -> bool:
        """Whether it is here, with as many slices as the PACS has now."""
        place = self.place(reference)
        if reference.image:
            return place.is_file()
        return place.is_dir() and sum(1 for _ in place.iterdir()) == reference.images

    def get(self, reference: Reference) -> Path:
        """The image's file or folder, fetched if it is not here.

        Raises:
            Unavailable: it is not here, and the PACS does not send it.
        """
        place = self.place(reference)
        if not self.has(reference):
            self._fetch(reference)
            self._make_room()
        os.utime(self.folder / reference.case)
        return place

    def for_viewer(self, reference: Reference) -> Path:
        """One file that 3D Slicer can load: the DICOM file, of a volume a NIfTI made of its series (``upright``)."""
        place = self.get(reference)
        if reference.image:
            return place
        path = self.viewer_place(reference)
        if not path.is_file():
            save_for_viewer(read_dicom(place), path)
        return path

    def viewer_place(self, reference: Reference) -> Path:
        """Where ``for_viewer`` puts it."""
        return self.place(reference) if reference.image else self.folder / reference.case / f"{reference.case}.nii.gz"

    def _fetch(self, reference: Reference) -> None:
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=self.folder) as temporary:
            images = Path(temporary) / "case" / "images"
            images.mkdir(parents=True)
            if reference.image:
                self.pacs.fetch_instance(reference.study, reference.series, reference.image, images)
            else:
                count = self.pacs.fetch_series(reference.study, reference.series, images)
                if count != reference.images:
                    raise Unavailable(
                        f"PACS {self.pacs.url}: sent {count} images of series {reference.series}, which has"
                        f" {reference.images}; perhaps more are still coming in"
                    )
            if self.has(reference):  # another process or thread was faster, and somebody may read what it fetched
                return
            case = self.folder / reference.case
            if case.exists():  # of fewer slices
                os.replace(case, Path(temporary) / "old")
            os.replace(Path(temporary) / "case", case)

    def _make_room(self) -> None:
        if time.monotonic() - self._counted < COUNT_SECONDS:
            return
        self._counted = time.monotonic()
        cases = [case for case in self.folder.iterdir() if case.is_dir() and not case.name.startswith(".")]
        sizes = {case: _size(case) for case in cases}
        total = sum(sizes.values())
        by_worth = sorted(cases, key=lambda case: (self.is_dear(case.name), case.stat().st_mtime))
        for case in by_worth:
            if total <= self.most_bytes:
                return
            if time.time() - case.stat().st_mtime > IN_USE_SECONDS:
                logger.info("image %s leaves the cache", case.name)
                shutil.rmtree(case, ignore_errors=True)
                total -= sizes[case]


def save_for_viewer(stored: Stored, path: Path) -> None:
    """A volume (k, j, i) as a NIfTI that ITK reads: with axes at right angles."""
    stored = upright(stored)
    pixels = stored.pixels.transpose(2, 1, 0)
    whole = np.array_equal(pixels, np.round(pixels)) and np.abs(pixels).max(initial=0) < 2**15
    values = pixels.astype(np.int16 if whole else np.float32)
    image: Any = nibabel.Nifti1Image(values, stored.affine)  # type: ignore[no-untyped-call]
    # Both, the same: readers differ in which they prefer.
    image.set_qform(stored.affine, code=1)
    image.set_sform(stored.affine, code=1)
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
