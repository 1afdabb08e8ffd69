"""The host's trainer task ``sam``: adapts SAM to the labels there are, without training a student for service."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from samstudent.errors import Conflict
from samstudent.pseudolabels.policy import ADAPTED_FILE, MIN_LABELS
from samstudent.rounds.options import TrainOptions
from samstudent.rounds.prepare import prepare
from samstudent.rounds.study import Study
from samstudent.rounds.teaching import LabelledSet, cross_fit_labels, fit_heads, fit_labeling
from samstudent.server.tasks.study_round import StudyRound, sources
from samstudent.util.progress import Report, log_progress

logger = logging.getLogger(__name__)


class SamTrainTask(TrainTask):  # type: ignore[misc]
    """One call trains students on folds of the labels, so that there are out-of-fold predictions to prompt with, then
    SAM's mask decoder, and activates the adapted SAM if it beats the plain one on cases left out; then the decoder of
    clicks, in the same way.

    The students are kept: a round on the same labels uses them again.

    Args:
        study: the study.
        report: is called with the progress.
    """

    def __init__(self, study: Study, report: Report = log_progress) -> None:
        super().__init__(f"Adapts Segment Anything to the labels of {study.task.name}")
        self.study, self.report = study, report

    def config(self) -> dict[str, Any]:
        return {"seed": self.study.task.training.seed, "device": device_list()}

    def stats(self) -> dict[str, Any]:
        """What Slicer shows: Dice of SAM on cases left out, adapted, of the last adaptation."""
        records = self.study.adapted_models.records()
        if not records:
            return {}
        last = records[-1]["adaptation"]
        return {"best_metric": last["adapted"] or 0.0, "plain": last["plain"], "adapted": last["adapted"]}

    def plan(self, request: dict[str, Any], datastore: Any) -> tuple[TrainOptions, list[str]]:
        """Check a request before anything is done: its options, and the cases to learn from.

        Raises:
            Conflict: too few labels that train, or the task switches adaptation off.
            UserError: a value in the request is not allowed.
        """
        options = TrainOptions.of(request, self.study.task)
        labelled = datastore.get_labeled_images()
        self.study.holdout.extend(datastore.list_images(), labelled)
        if self.study.task.pseudo_labels.policy == "fixed":
            raise Conflict("the task switches the adaptation of SAM off (pseudo_labels.policy: fixed)")
        train_ids, _ = self.study.holdout.split(labelled)
        if len(train_ids) < MIN_LABELS:
            raise Conflict(
                f"SAM is adapted from {MIN_LABELS} labelled cases on, and {len(train_ids)} are labelled (without "
                "those kept to compare models). Label more and try again"
            )
        return options, train_ids

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Adapt, and return id, Dice of both and the reason. Raises as ``plan``."""
        options, train_ids = self.plan(request, datastore)
        device = str(name_to_device(request.get("device") or device_list()[0]))
        parts = replace(self.study.ablations, choose_recipe=False, estimate_quality=False)
        round_options = replace(options.round_options(self.study.task, device), ablations=parts)
        with tempfile.TemporaryDirectory() as name:
            store = StudyRound(self.study, datastore)
            store.folder, store.earlier_policies = Path(name), []
            cases, left_out = prepare(
                sources(self.study, datastore, train_ids, labelled=True), store.cases, self.report
            )
            labels = LabelledSet(cases, store)
            cross = cross_fit_labels(labels, round_options, self.report)
            if cross is None:
                reasons = "; ".join(f"{case}: {why}" for case, why in left_out.items())
                raise Conflict(
                    f"SAM was not adapted: it needs {MIN_LABELS} labels of different images that can be read; "
                    f"left out: {reasons or 'none'}"
                )
            teacher = fit_heads(cross, labels, round_options, self.report)
            policy = fit_labeling(teacher, labels, [], round_options, self.report)
            found, learnt_from = policy.record["adaptation"], labels.digests(cross.folds)
            id = self.study.store_adaptation(found, store.policy_folder / ADAPTED_FILE, learnt_from)
            clicks = self.study.click_decoders.adapt(labels, store.plain_sam(), round_options.seed or 0, self.report)
        logger.info("SAM %s: %s", id, found["reason"])
        result = self.stats() | {"id": id, "active": self.study.active_model, "reason": found["reason"]}
        if clicks is not None:
            logger.info("clicks: %s", clicks.reason)
            result |= {"clicks": clicks.reason}
        return result
