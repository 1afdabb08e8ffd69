"""Search for the images that annotation files name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from samstudent.errors import NotFound, UserError
from samstudent.imaging.file_names import IMAGES, split_name

#: Largest number of files that are listed in a folder and its subfolders.
MOST_FILES = 1_000_000


class ImageSearch:
    """Images of a data set by the names in its annotation files.

    Args:
        given: folder of the images; None: the folder of an annotation file or the one above, or ``images/`` in either.
        annotations: the annotation files.

    Raises:
        NotFound: ``given`` is no folder.
    """

    def __init__(self, given: Path | None, annotations: Iterable[Path]) -> None:
        if given is not None and not given.is_dir():
            raise NotFound(f"--images {given}: no such folder")
        beside = list(dict.fromkeys(path.parent for path in annotations))
        self._folders = [given] if given else [f for b in beside for f in (b / "images", b, b.parent / "images")]
        self._named: dict[str, list[Path]] | None = None

    @property
    def places(self) -> str:
        """The searched folders, for messages."""
        return ", ".join(str(folder) for folder in self._folders if folder.is_dir())

    def find(self, name: str) -> Path | None:
        """File of an image; None: not found.

        Args:
            name: name in an annotation file, perhaps with folders in front.

        Raises:
            UserError: subfolders have several images of this name, none of them at the named path.
        """
        relative = name.replace("\\", "/").lstrip("/")
        safe = ".." not in relative.split("/")
        for folder in self._folders:
            for candidate in (relative, os.path.basename(relative)):
                if safe and (folder / candidate).is_file():
                    return folder / candidate
        same = self._below().get(os.path.basename(relative), [])
        by_path = [path for path in same if path.as_posix().endswith("/" + relative)]
        if len(by_path or same) > 1:
            listed = ", ".join(map(str, (by_path or same)[:3]))
            raise UserError(f"several images are called {os.path.basename(relative)!r}: {listed}")
        return next(iter(by_path or same), None)

    def _below(self) -> dict[str, list[Path]]:
        """Images in the subfolders of the first folder that exists, by file name."""
        if self._named is None:
            self._named = {}
            count = 0
            folder = next((f for f in self._folders if f.is_dir()), None)
            for parent, _, files in os.walk(folder) if folder is not None else ():
                count += len(files)
                if count > MOST_FILES:
                    raise UserError(f"{folder}: has more than {MOST_FILES} files; give the folder of the images")
                for file in files:
                    if split_name(file, IMAGES)[1]:
                        self._named.setdefault(file, []).append(Path(parent, file))
        return self._named
