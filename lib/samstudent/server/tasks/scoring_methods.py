"""Scoring methods of active learning behind the host's interface: they fill the tables that the strategies read.

They run in a job process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from numpy.typing import NDArray

from samstudent.active_learning.scores import disagreement_score, entropy_score
from samstudent.active_learning.state import SelectionState
from samstudent.errors import UserError, explain
from samstudent.rounds.holdout import HoldOut
from samstudent.server.tasks.case_lists import image_problem, split_cases, unreadable
from samstudent.util.progress import Report, StepReport, log_progress

logger = logging.getLogger(__name__)

#: Function from the path of an image to the student's probabilities, float32 (S, *spatial), and SAM's agreement with
#: each of the S masks.
Predict = Callable[[str], tuple[NDArray[np.float32], Sequence[float | None]]]
#: Function from the path of an image to its SAM embedding, averaged over pixels (and slices of a volume), float32 (D,).
Embed = Callable[[str], NDArray[np.float32]]


class UncertaintyScoring(ScoringMethod):  # type: ignore[misc]
    """Entropy and disagreement of the unlabelled training cases whose scores are not up to date.

    Args:
        state: scores of the study.
        holdout: hold-out of the study; its cases are sampled at random and need no score.
        version: digest of everything that the scores depend on (champion, SAM, recipe); None: there is no student.
        predict: prediction of student and SAM on one image.
        overlap: whether structures may overlap; see ``entropy_score``.
        report: receiver of the progress.
    """

    def __init__(
        self,
        state: SelectionState,
        holdout: HoldOut,
        version: Callable[[], str | None],
        predict: Predict,
        overlap: bool,
        report: Report = log_progress,
    ) -> None:
        super().__init__("Entropy of the student, and its disagreement with SAM, for each unlabelled case")
        self.state, self.holdout, self.version = state, holdout, version
        self.predict, self.overlap, self.report = predict, overlap, report

    def info(self) -> dict[str, Any]:
        return {**super().info(), "config": {}}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Compute the missing scores. Each case is stored immediately, so that an interruption loses one case only.

        Returns:
            Numbers of ``scored`` and ``current`` (already up to date) cases; ``failed``: reasons by case id.
        """
        version = self.version()
        if version is None:
            return {"scored": 0, "current": 0, "failed": {}, "note": "there is no student that fits the task"}

        def score(case: str) -> None:
            probabilities, agreements = self.predict(datastore.get_image_uri(case))
            self.state.put_scores("entropy", {case: entropy_score(probabilities, self.overlap)}, version)
            # Stored last: a case is up to date when this score is.
            self.state.put_scores("disagreement", {case: disagreement_score(agreements)}, version)

        unlabelled, _ = split_cases(datastore, self.holdout)
        cases = self.holdout.trainable(unlabelled)
        current = self.state.scored("disagreement", version)
        return _score_cases(cases, current, score, datastore, StepReport(self.report, "scoring: uncertainty"))


class DiversityScoring(ScoringMethod):  # type: ignore[misc]
    """SAM embedding, averaged over the image, of every training case, labelled or unlabelled.

    Args:
        state: embeddings of the study.
        holdout: hold-out of the study.
        version: digest of the SAM backend.
        embed: averaged embedding of one image, read from the embedding cache if possible.
        report: receiver of the progress.
    """

    def __init__(
        self,
        state: SelectionState,
        holdout: HoldOut,
        version: Callable[[], str],
        embed: Embed,
        report: Report = log_progress,
    ) -> None:
        super().__init__("SAM embedding of each case, for selection of cases that differ from the labelled ones")
        self.state, self.holdout, self.version, self.embed, self.report = state, holdout, version, embed, report

    def info(self) -> dict[str, Any]:
        return {**super().info(), "config": {}}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Compute the missing embeddings; result as of ``UncertaintyScoring``."""
        version = self.version()

        def score(case: str) -> None:
            self.state.put_vectors({case: self.embed(datastore.get_image_uri(case))}, version)

        unlabelled, labelled = split_cases(datastore, self.holdout)
        cases = self.holdout.trainable(unlabelled | labelled)
        current = self.state.cases_with_vector(version)
        return _score_cases(cases, current, score, datastore, StepReport(self.report, "scoring: diversity"))


def _score_cases(
    cases: Iterable[str], current: set[str], score: Callable[[str], None], datastore: Datastore, report: StepReport
) -> dict[str, Any]:
    """Score the cases that are not up to date.

    A case that fails is part of the result and does not stop the others. A case with an unreadable image is not tried
    again until the image changes.
    """
    cases, broken = list(cases), unreadable(datastore)
    todo = [case for case in cases if case not in current]
    failed = {case: broken[case] for case in todo if case in broken}
    readable = [case for case in todo if case not in broken]
    for number, case in enumerate(readable, 1):
        try:
            score(case)
        except Exception as error:
            # No stack trace for a damaged file or a full disk.
            expected = explain(error) if isinstance(error, UserError | OSError) else None
            reason = expected or f"{type(error).__name__}: {error}"
            failed[case] = image_problem(datastore, case) or reason
            logger.warning("case %s could not be scored: %s", case, failed[case], exc_info=not expected)
        else:
            getattr(datastore, "note_readable", lambda case: None)(case)
        report(number, len(readable), message=case)
    return {"scored": len(todo) - len(failed), "current": len(cases) - len(todo), "failed": failed}
