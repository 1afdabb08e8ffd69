"""Batch inference behind the host's interface: pseudo labels for all cases without a human label."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.utils.others.generic import name_to_device

from samstudent.errors import Conflict, UserError
from samstudent.pseudolabels.case_labeller import CaseLabeller, OnCase
from samstudent.rounds.labeling import label_cases
from samstudent.rounds.prepare import prepare
from samstudent.rounds.study import Study
from samstudent.sam.cached_sam import CachedSam
from samstudent.server.tasks.study_round import StudyRound, sources
from samstudent.student.predict import Student
from samstudent.util.progress import Report, log_progress

logger = logging.getLogger(__name__)

#: Models for pseudo labels, and whether they use SAM.
MODELS = {"student+sam": True, "student": False}


class SamstudentBatchInfer(BatchInferTask):  # type: ignore[misc]
    """POST /batch/infer/student+sam (or /student): see ``rounds.labeling``.

    The host's own task overwrites the tag ``original``, and fails on a machine without a GPU unless ``multi_gpu`` is
    false (E7). Labels of this task have the tags ``pseudo`` and ``pseudo_raw``.
    """

    def __init__(self, study: Study, on_case: OnCase | None = None, report: Report = log_progress) -> None:
        """Args: of ``StudentTrainTask``."""
        self.study, self.on_case, self.report = study, on_case, report

    def __call__(self, request: dict[str, Any], datastore: Any, infer: Callable[..., Any]) -> dict[str, Any]:
        """Generate missing and outdated pseudo labels.

        Args:
            request: ``model``; ``images``: "all", "unlabeled", "labeled" (which only drops pseudo labels that a human's
                label has replaced) or a list of ids; ``max_batch_size``: at most so many cases; ``device``.

        Returns:
            ``made``, ``current``, ``skipped``: numbers of cases; ``failed``: case id -> reason.

        Raises:
            UserError: a model that makes no pseudo labels, a tag, an unknown case.
            Conflict: there is no student yet.
        """
        model = request.get("model")
        if model not in MODELS:
            raise UserError(f"batch inference with model {model!r}: use one of {', '.join(MODELS)}")
        # The host's default body has "original".
        if request.get("label_tag") not in (None, "", "original"):
            raise UserError("label_tag: omit it; batch inference always uses the tags of pseudo labels")
        ids = self._ids(request, datastore)
        path = self.study.ledger.champion_path()
        if path is None:
            raise Conflict("no student yet: label a case or more and train first")
        task, holdout = self.study.task, self.study.holdout
        holdout.extend(datastore.list_images(), datastore.get_labeled_images())
        store = StudyRound(self.study, datastore, on_case=self.on_case)
        skipped = store.drop_replaced(ids)
        sam, policy = self.study.refiner_of(path.parent.name) if MODELS[model] else (None, None)
        student = Student.load(path, task, name_to_device(request.get("device")))
        cached = None if sam is None else CachedSam(sam, self.study.embeddings)
        labeller = CaseLabeller(task, student, cached, policy)
        cases_to_label = sources(self.study, datastore, set(ids) - skipped, labelled=False)
        cases, failed = prepare(cases_to_label, store.cases, self.report)
        counts = label_cases(cases, labeller, store, self.report)
        failed |= counts.failed
        if failed and not (counts.made or counts.current or skipped):
            raise UserError(f"no pseudo label could be generated: {failed}")
        return {"made": counts.made, "current": counts.current, "skipped": len(skipped), "failed": failed}

    def _ids(self, request: dict[str, Any], datastore: Any) -> list[str]:
        ids = sorted(self.get_images(request, datastore))
        if unknown := set(ids) - set(datastore.list_images()):
            raise UserError(f"images: there is no case {', '.join(sorted(unknown))}")
        most = int(request.get("max_batch_size") or 0)
        return ids[:most] if most > 0 else ids
