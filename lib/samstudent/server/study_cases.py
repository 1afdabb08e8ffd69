"""Cases of a study for predictions: of a folder from its listing, of a PACS from its datastore."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from samstudent.errors import NotFound
from samstudent.imaging.folder import images_folder, list_folder
from samstudent.rounds.study import Study
from samstudent.task import Task

if TYPE_CHECKING:
    from samstudent.server.datastore.study_folder import StudyFolderDatastore


class CasesOfStudy:
    """Cases of a study (``inference.image_list.StudyCases``).

    Args:
        study: state of the study.
        studies: path of the study folder, or URL of a DICOMweb server, which is polled at the first access.
    """

    def __init__(self, study: Study, studies: str) -> None:
        self._study, self._studies = study, studies

    def ids(self) -> list[str]:
        """Ids of all cases, sorted."""
        return sorted(self._pacs.list_images() if self._study.is_remote else self._files)

    def path(self, case: str) -> Path:
        """File or folder of an image; that of a PACS is fetched.

        Raises:
            NotFound: no such case. Unavailable: the PACS does not send it.
        """
        if self._study.is_remote:
            return Path(self._pacs.get_image_uri(case))
        if case not in self._files:
            raise NotFound(f"case {case!r} is not in the study")
        return self._files[case]

    @cached_property
    def _files(self) -> dict[str, Path]:
        return _list_images(Path(self._studies), self._study.task)

    @cached_property
    def _pacs(self) -> StudyFolderDatastore:
        # Here, not above: the host takes seconds, and the cases of a folder do not need it.
        from samstudent.server.open_datastore import open_datastore

        return open_datastore(self._study, self._studies)


def _list_images(studies: Path, task: Task) -> dict[str, Path]:
    channels = task.image.sequences
    return list_folder(images_folder(studies), dimension=task.dimension, channels=channels).files
