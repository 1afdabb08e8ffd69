"""Step of a round: pseudo labels of the unlabelled cases. The server's batch inference is this step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.pseudolabels.case_labeller import CaseLabeller
from samstudent.pseudolabels.provenance import Provenance
from samstudent.rounds.case_store import PreparedCase
from samstudent.rounds.pseudo_store import Kind
from samstudent.rounds.round_store import RoundStore
from samstudent.student.predict import binarize
from samstudent.task import Task
from samstudent.util.progress import Report, StepReport, no_report

logger = logging.getLogger(__name__)


@dataclass
class Counts:
    """Counts of ``label_cases``, in cases.

    Attributes:
        made: labelled now.
        current: with a label of the same provenance.
        failed: id -> reason.
    """

    made: int = 0
    current: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.made} made, {self.current} up to date"
        return text + (f", {len(self.failed)} failed: {', '.join(self.failed)}" if self.failed else "")


def label_cases(
    cases: Sequence[PreparedCase], labeller: CaseLabeller, store: RoundStore, report: Report = no_report
) -> Counts:
    """Make missing and stale pseudo labels. A case that fails does not stop the others.

    Args:
        cases: without human labels.
        labeller: without SAM it makes the student's own masks.
        store: of the labels.
        report: called with the progress.
    """
    counts, progress = Counts(), StepReport(report, "making pseudo labels")
    kind, made_with = kind_of(labeller), labeller.made_with
    for number, case in enumerate(cases, 1):
        try:
            if store.labels.is_current(case, kind, made_with) and store.has_label(case.id, kind, made_with):
                counts.current += 1
            else:
                _label(case, labeller, store)
                counts.made += 1
        except Exception as error:  # a failed case is counted and logged
            logger.warning("no pseudo label for %s: %s", case.id, error, exc_info=not isinstance(error, UserError))
            counts.failed[case.id] = f"{type(error).__name__}: {error}"
        progress(number, len(cases), message=case.id)
    logger.info("pseudo labels: %s", counts)
    return counts


def kind_of(labeller: CaseLabeller) -> Kind:
    """Kind of the labels of a labeller."""
    return "raw" if labeller.sam is None else "refined"


def _label(case: PreparedCase, labeller: CaseLabeller, store: RoundStore) -> None:
    # A stale label is removed first: if this case fails, no label of an old student remains for training.
    store.drop_labels(case.id, kind_of(labeller))
    image, raw_made_with = store.cases.image(case), replace(labeller, sam=None).made_with
    if labeller.sam is None:
        masks = binarize(labeller.student.predict(image), labeller.task)
        info = raw_info(masks, raw_made_with, labeller.task)
        store.raw_label_made(case.id, image, masks, info)
        store.labels.save_raw(case, image, masks, info)
    else:
        label = labeller.label(image, labeller.sam)
        store.label_made(case.id, image, label, raw_info(label.raw, raw_made_with, labeller.task))
        store.labels.save(case, image, label)


def raw_info(masks: NDArray[Any], made_with: Provenance, task: Task) -> dict[str, Any]:
    """Label info of a student's own masks bool (S, *spatial), as of ``PseudoLabel.info``."""
    status = {name: "accepted" if mask.any() else "absent" for name, mask in zip(task.names, masks, strict=True)}
    return {"provenance": made_with.as_json(), "structures": {n: {"status": s} for n, s in status.items()}}
