"""Creation of the datastore of a study: a folder, or a PACS."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from monailabel.config import settings

from samstudent.imaging.case import read_image
from samstudent.imaging.label_tags import FINAL
from samstudent.imaging.labels import read_masks
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.rounds.study import Study
from samstudent.server.auth import audit
from samstudent.server.datastore.label_folder import LabelFolder, claim, label_folder
from samstudent.server.datastore.label_rules import ImageRules, LabelRules
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.jobs.job_process import is_job_process
from samstudent.server.pacs.client import Pacs
from samstudent.server.pacs.datastore import PacsDatastore
from samstudent.server.pacs.settings import PacsSettings, require_supported, require_supported_task

logger = logging.getLogger(__name__)


def open_datastore(study: Study, studies: str, *, watch: bool = True) -> StudyFolderDatastore:
    """Datastore of a study; labels are checked against their images when they are saved.

    Args:
        study: state of the study.
        studies: path of the study folder, or URL of a DICOMweb server.
        watch: notice new files of a folder while it is open, if the settings of the host allow it.

    Raises:
        UserError: unsupported kind of study.
    """
    require_supported(settings.MONAI_LABEL_DATASTORE, studies)
    return _pacs(study, studies) if study.is_remote else _folder(study, Path(studies), watch)


def _folder(study: Study, folder: Path, watch: bool) -> StudyFolderDatastore:
    task = study.task
    place = label_folder(folder, task)
    if place.note and not is_job_process():
        logger.warning("%s: %s", folder, place.note)

    def check(image_id: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        _check_label(datastore, study, image_id, file, tag, info)

    datastore = StudyFolderDatastore(
        str(folder),
        # Only the server watches the folder; a job reads the list when it changes.
        auto_reload=watch and settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD and not is_job_process(),
        read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        images=ImageRules.of(task, study.image_check),
        labels=LabelRules(
            task, place, check, functools.partial(claim, folder, task) if place == LabelFolder() else lambda: None
        ),
    )
    return datastore


def _pacs(study: Study, url: str) -> PacsDatastore:
    require_supported_task(study.task)
    pacs = Pacs(url, PacsSettings.from_environment())

    def check(image_id: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        _check_label(datastore, study, image_id, file, tag, info)

    datastore = PacsDatastore(study.folder / "pacs", pacs, study.task, study.root / "images", check)
    if not is_job_process():  # the server polls for its jobs, too
        audit.write_to(study.audit)  # for labels that are imported
        datastore.first_poll()
    return datastore


def _check_label(
    datastore: StudyFolderDatastore, study: Study, image_id: str, file: Path, tag: str, info: dict[str, Any]
) -> None:
    """Check that a human label can be used for training; raises UserError while the annotator can still correct it."""
    if tag == FINAL:
        grid = read_image(datastore.get_image_uri(image_id), study.task.dimension).grid
        read_masks(file, study.task, grid, names=names_for_reading(file, info))


def label_times(datastore: StudyFolderDatastore) -> list[float]:
    """Times at which the human labels were last saved, seconds since 1970."""
    return [saved for _, saved in datastore.label_times()]
