"""A pass over a study folder: takes in files that came, drops what is gone, and says what is wrong."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

from monailabel.datastore.local import ImageLabelModel, LocalDatastoreModel

from samstudent.errors import Conflict
from samstudent.imaging.duplicates import duplicates
from samstudent.imaging.file_names import IMAGES
from samstudent.imaging.folder import sentences
from samstudent.imaging.label_tags import MACHINE_TAGS
from samstudent.server.datastore.label_files import LabelFiles
from samstudent.server.datastore.label_rules import ImageRules
from samstudent.server.datastore.reconcile import Reconciler
from samstudent.server.jobs.job_process import is_job_process
from samstudent.util.files import require_own

logger = logging.getLogger(__name__)

#: Where more files than this have one size, the server does not look for equal ones; ``doctor`` does.
MOST_ALIKE = 200


class StudyFiles:
    """Brings a study's list in line with its files.

    Args:
        labels: the study's labels, with its list.
        rules: for its images.
    """

    def __init__(self, labels: LabelFiles, rules: ImageRules) -> None:
        self.labels, self.rules = labels, rules
        #: What is wrong with the folder, as of the last pass.
        self.problems: list[str] = []

    def reconcile(self) -> None:
        """Take in what came into the folder, drop what is gone: one pass, one write."""
        labels = self.labels
        with labels.listed.transaction() as model:
            reconciler = self._reconciler(adopted_at=time.time())
            model.objects = reconciler.objects(model)
            findings = labels.value_names.findings(model.objects) if labels.value_names else []
        problems = reconciler.problems + findings + self._outside()
        if self.rules.extensions == IMAGES:  # a PACS has references instead of images
            # After the transaction: what is read here must not keep other processes waiting.
            problems += sentences(duplicates(reconciler.images, MOST_ALIKE))
            if not reconciler.images:
                problems.append(f"no image in {reconciler.folder}: expected files ending in {' '.join(IMAGES)}")
        for problem in problems:
            if problem not in self.problems:
                # The server has logged it; each of its jobs looks at the folder, too.
                logger.log(logging.DEBUG if is_job_process() else logging.WARNING, "%s: %s", labels.study, problem)
        self.problems = problems
        if any(set(entry.labels) - MACHINE_TAGS for entry in labels.listed.model.objects.values()):
            with contextlib.suppress(Conflict, OSError):  # the labels are another task's, or the study is read-only
                labels.rules.claim()

    def rebuild(self, model: LocalDatastoreModel) -> dict[str, ImageLabelModel]:
        """The list as the files say, with the times of the files: what was saved before is not new."""
        return self._reconciler(adopted_at=None).objects(model)

    def _reconciler(self, adopted_at: float | None) -> Reconciler:
        reconciler = Reconciler(self.rules.extensions, self.labels.history, adopted_at)
        if (names := self.labels.value_names) is not None:
            names.start_pass()
            reconciler.add_value_names = names.add_value_names
        return reconciler

    def _outside(self) -> list[str]:
        """A line for each folder that leads out of the study."""
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
