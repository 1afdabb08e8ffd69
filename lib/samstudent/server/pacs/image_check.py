"""Check of a PACS's images: each is read once after it was fetched, and its problem recorded."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from samstudent import __version__
from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.server.pacs.cache import ImageCache
from samstudent.server.pacs.listing import Reference
from samstudent.server.pacs.sync_state import SyncState

logger = logging.getLogger(__name__)


class PacsImageCheck:
    """Check of the images of one study.

    Args:
        images: image cache.
        sync_state: storage of the problems.
        dimension: 2 or 3, of the task.
    """

    def __init__(self, images: ImageCache, sync_state: SyncState, dimension: int) -> None:
        self._images, self._sync_state, self._dimension = images, sync_state, dimension

    def readable(self, reference: Reference) -> Path:
        """Path of an image that can be read; fetched, and read once, if necessary.

        Raises:
            Unavailable: it cannot be fetched now. UserError: it is unusable.
        """
        path, state = self._images.get(reference), self._state_of(reference)
        problem = self._sync_state.image_problem(reference.case, state)
        if problem is None:
            problem = ""
            try:
                read_image(path, self._dimension)
            except UserError as error:
                problem = f"{reference.case}: {_without_paths(str(error), path)}"
                logger.error("unusable image: %s", problem)
            self._sync_state.set_image_problem(reference.case, state, problem)
        if problem:
            raise UserError(problem)
        return path

    def problems(self, references: Mapping[str, Reference]) -> dict[str, str]:
        """Reasons by case id of the images that are known to be unusable.

        Args:
            references: references of the study's cases, by case id.
        """
        return {
            case: problem
            for case, (state, problem) in self._sync_state.image_problems().items()
            if case in references and state == self._state_of(references[case])
        }

    def _state_of(self, reference: Reference) -> str:
        """State of image and reader; an image is read again if it changed."""
        return f"{reference.images} {self._dimension}D {__version__}"


def _without_paths(message: str, path: Path) -> str:
    """Message about an image without its path in the cache, which is of no use to clients."""
    return message.removeprefix(f"{path}: ").replace(f"{path}{os.sep}", "").replace(str(path), "it")
