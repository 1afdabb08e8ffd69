"""Reconciliation of a study's list with the files of its folder, and problems of these files."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

from monailabel.datastore.local import ImageLabelModel, LocalDatastoreModel

from samstudent.errors import Conflict
from samstudent.imaging.duplicates import duplicates
from samstudent.imaging.file_names import IMAGES
from samstudent.imaging.label_tags import MACHINE_TAGS
from samstudent.imaging.remarks import sentences
from samstudent.server.datastore.label_files import LabelFiles
from samstudent.server.datastore.label_rules import ImageRules
from samstudent.server.datastore.reconcile import Reconciler
from samstudent.server.jobs.job_process import is_job_process
from samstudent.util.files import require_own

logger = logging.getLogger(__name__)

#: Largest number of files of one size that the server compares for duplicates; ``doctor`` has no limit.
MOST_ALIKE = 200


class StudyFiles:
    """Reconciliation of a study's list with its files.

    Args:
        labels: label files, with the list.
        rules: rules for the images.
    """

    def __init__(self, labels: LabelFiles, rules: ImageRules) -> None:
        self.labels, self.rules = labels, rules
        #: Problems of the folder at the last reconciliation.
        self.problems: list[str] = []

    def reconcile(self) -> None:
        """List new files and drop missing ones, in one pass and one write."""
        labels = self.labels
        with labels.listed.transaction() as model:
            reconciler = self._reconciler(adopted_at=time.time())
            model.objects = reconciler.objects(model)
            findings = labels.value_names.findings(model.objects) if labels.value_names else []
        problems = reconciler.problems + findings + self._outside()
        if self.rules.extensions == IMAGES:  # a PACS has references instead of images
            # After the transaction, because the files are read here, and the list is locked in a transaction.
            problems += sentences(duplicates(reconciler.images, MOST_ALIKE))
            if not reconciler.images:
                problems.append(f"no image in {reconciler.folder}: expected files ending in {' '.join(IMAGES)}")
        for problem in problems:
            if problem not in self.problems:
                # Debug level in a job: the server has logged it.
                logger.log(logging.DEBUG if is_job_process() else logging.WARNING, "%s: %s", labels.study, problem)
        self.problems = problems
        if any(set(entry.labels) - MACHINE_TAGS for entry in labels.listed.model.objects.values()):
            with contextlib.suppress(Conflict, OSError):  # labels of another task, or a read-only study
                labels.rules.claim()

    def rebuild(self, model: LocalDatastoreModel) -> dict[str, ImageLabelModel]:
        """Entries restored from the files, with the modification times of the files."""
        return self._reconciler(adopted_at=None).objects(model)

    def _reconciler(self, adopted_at: float | None) -> Reconciler:
        reconciler = Reconciler(self.rules, self.labels.history, adopted_at)
        if (names := self.labels.value_names) is not None:
            names.start_pass()
            reconciler.add_value_names = names.add_value_names
        return reconciler

    def _outside(self) -> list[str]:
        """One line for each folder that is outside of the study."""
        model = self.labels.listed.model
        labels = Path(model.label_path(None))
        tags = sorted(item.name for item in labels.iterdir() if item.is_dir()) if labels.is_dir() else []
        found = []
        for folder in (Path(model.image_path()), *(Path(model.label_path(tag)) for tag in tags)):
            try:
                require_own(folder / "file", self.labels.study)
            except Conflict as error:
                found.append(str(error))
        return found
