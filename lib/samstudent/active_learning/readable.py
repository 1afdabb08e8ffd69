"""Check whether the images of a study can be read: unreadable ones are not offered, and are listed as problems."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from samstudent import __version__
from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.file_names import printable
from samstudent.imaging.folder import stamp_of
from samstudent.imaging.image_paths import ImagePath
from samstudent.util.database import connection, make_tables

_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (case_id TEXT PRIMARY KEY, stamp TEXT NOT NULL, problem TEXT);
"""


class ImageCheck:
    """Results of the check of each image, in the study's ``state.sqlite``, shared by any number of processes.

    A result is valid for one state of the file, one dimension of the task and one version of this package: a repaired
    image is read again.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        """Open or create the file.

        Args:
            path: the SQLite file.
            dimension: of the task's images, 2 or 3.

        Raises:
            UserError: the file is no SQLite database.
        """
        self.path, self.dimension = path, dimension
        make_tables(path, _SCHEMA, "restore it from a backup")

    def problem(self, case: str, file: Path) -> str | None:
        """Reason why an image cannot be used; None where it can. It is decoded unless the result is known."""
        stamp = self._stamp(file)
        with connection(self.path) as database:
            row = database.execute("SELECT stamp, problem FROM images WHERE case_id = ?", (case,)).fetchone()
        if row is not None and row[0] == stamp:
            return None if row[1] is None else str(row[1])
        problem = None
        try:
            read_image(file, self.dimension)
        except UserError as error:
            problem = _without_folders(str(error), file)
        self.record(case, file, problem)
        return problem

    def record(self, case: str, file: Path, problem: str | None = None) -> None:
        """Store a result; ``problem`` None: the image can be read."""
        row = (case, self._stamp(file), None if problem is None else printable(problem))
        with connection(self.path) as database:
            database.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", row)

    def problems(self, file_of: Callable[[str], Path | None]) -> dict[str, str]:
        """Case id -> reason why its image cannot be used, of stored results; no image is read.

        Args:
            file_of: returns the image file of a case id; None where there is no such case.
        """
        with connection(self.path) as database:
            rows = database.execute("SELECT case_id, stamp, problem FROM images WHERE problem IS NOT NULL").fetchall()
        files = {case: file for case, _, _ in rows if (file := file_of(case)) is not None}
        return {case: why for case, stamp, why in rows if case in files and self._stamp(files[case]) == stamp}

    def _stamp(self, file: Path) -> str:
        return f"{stamp_of(file)} {self.dimension}D {__version__}"


def _without_folders(message: str, file: Path) -> str:
    """Message about an image with names in place of paths, which clients do not need."""
    message = message.replace(str(file), file.name)
    image = ImagePath.of(file)
    for place in (image.place, *(ImagePath.of(channel).place for channel in image.channels)):
        message = message.replace(f"{place.parent}{os.sep}", "")
    return message
