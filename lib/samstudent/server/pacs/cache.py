"""Disk cache of the images of a PACS, of limited size; images are fetched on demand and completely."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from samstudent.errors import Unavailable
from samstudent.imaging.dicom import read_dicom
from samstudent.server.datastore.volume_copies import save_for_viewer
from samstudent.server.pacs.client import Pacs
from samstudent.server.pacs.listing import Reference

logger = logging.getLogger(__name__)

#: Images used within this time are not removed, seconds: a training may read them soon.
IN_USE_SECONDS = 3600.0
#: Shortest interval between two checks of the size, seconds.
COUNT_SECONDS = 60.0


class ImageCache:
    """Files ``<folder>/<case id>/images/<SOP Instance UID>.dcm``; beside ``images`` the files for viewers.

    Args:
        folder: created if missing; may be shared by several studies and processes.
        pacs: DICOMweb server.
        most_bytes: size above which the least recently used images are removed.
        is_preferred: whether a case is removed last, by id (labelled cases, which every round reads).
    """

    def __init__(self, folder: Path, pacs: Pacs, most_bytes: float, is_preferred: Callable[[str], bool]) -> None:
        self.folder, self.pacs = folder, pacs
        self.most_bytes, self.is_preferred = most_bytes, is_preferred
        self._counted = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, reference: Reference) -> Path:
        """Path of an image, which need not exist: a file, or a folder for a volume."""
        images = self.folder / reference.case / "images"
        return images / f"{reference.image}.dcm" if reference.image else images

    def has(self, reference: Reference) -> bool:
        """Whether the image is in the cache, with the current number of slices."""
        place = self.place(reference)
        if reference.image:
            return place.is_file()
        return place.is_dir() and sum(1 for _ in place.iterdir()) == reference.images

    def get(self, reference: Reference) -> Path:
        """File or folder of an image, fetched if necessary.

        Raises:
            Unavailable: it is not in the cache, and the PACS does not send it.
        """
        place = self.place(reference)
        if not self.has(reference):
            self._fetch(reference)
            self._make_room()
        os.utime(self.folder / reference.case)
        return place

    def for_viewer(self, reference: Reference) -> Path:
        """File for 3D Slicer: the DICOM file, or a NIfTI with the volume of a series (``upright``)."""
        place = self.get(reference)
        if reference.image:
            return place
        path = self.viewer_place(reference)
        if not path.is_file():
            save_for_viewer(read_dicom(place), path)
        return path

    def viewer_place(self, reference: Reference) -> Path:
        """Path of the file of ``for_viewer``, which need not exist."""
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
                        f" {reference.images}; more may be arriving"
                    )
            if self.has(reference):  # fetched by another process or thread in the meantime, and possibly in use
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
        candidates = sorted(cases, key=lambda case: (self.is_preferred(case.name), case.stat().st_mtime))
        for case in candidates:
            if total <= self.most_bytes:
                return
            if time.time() - case.stat().st_mtime > IN_USE_SECONDS:
                logger.info("image %s is removed from the cache", case.name)
                shutil.rmtree(case, ignore_errors=True)
                total -= sizes[case]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
