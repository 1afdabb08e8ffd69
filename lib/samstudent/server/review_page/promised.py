"""Acceptance at once of all structures whose lower bound of Dice reaches a value, without a look at them."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from samstudent.errors import Conflict, NotFound, UserError
from samstudent.pseudolabels.dice_bound import CERTAINTY
from samstudent.server.datastore.identifiers import PROMISE
from samstudent.server.review_page.queue import QueueItem, queue_items
from samstudent.server.review_page.service import ReviewService

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promise:
    """Selection of structures.

    Attributes:
        dice: smallest lower bound of Dice, 0 to 1.
        partial: whether cases in which only some of the structures found reach it are selected, too.
    """

    dice: float = 0.9
    partial: bool = False

    def structures_of(self, item: QueueItem) -> list[str]:
        """Selected structures of a case; empty: the case is not selected.

        Structures that were not found are never selected: nothing is known of how often they are missed.
        """
        found = {name: entry for name, entry in item.structures.items() if entry.get("status") != "absent"}
        reached = [
            name
            for name, entry in found.items()
            if entry.get("status") == "accepted" and (entry.get("lower_bound") or -1.0) >= self.dice
        ]
        return reached if self.partial or len(reached) == len(found) else []


@dataclass(frozen=True)
class SelectedCase:
    """Selected structures of a case.

    Attributes:
        item: of the review queue.
        structures: their names.
        digest: of the pseudo label.
    """

    item: QueueItem
    structures: list[str]
    digest: str


class PromisedLabels:
    """Acceptance of all selected structures of the waiting cases of a study.

    Args:
        review: the review of the study.
    """

    def __init__(self, review: ReviewService) -> None:
        self.review = review

    def preview(self, promise: Promise) -> dict[str, Any]:
        """What ``accept`` would accept, as JSON.

        Returns:
            ``dice``, ``certainty``; ``cases``, ``structures``: numbers of what is accepted; ``others``: number of other
            structures that were found in these cases; ``digest`` of the selection; ``left_out``: figures of the bound
            on labelled cases that were left out (``RoundRecord.dice_bound`` of the latest round with one, or None);
            ``checked``: ``BoundChecks.summary``.

        Raises:
            UserError: a Dice outside 0 to 1.
        """
        chosen, study = self._chosen(promise), self.review.study
        found = [e for case in chosen for e in case.item.structures.values() if e.get("status") != "absent"]
        structures = sum(len(case.structures) for case in chosen)
        bounds = [record.dice_bound for record in study.ledger.rounds() if record.dice_bound]
        return {
            "dice": promise.dice,
            "certainty": CERTAINTY,
            "cases": len(chosen),
            "structures": structures,
            "others": len(found) - structures,
            "digest": _digest(promise, chosen),
            "left_out": bounds[-1] if bounds else None,
            "checked": study.bound_checks.summary(),
        }

    def accept(self, promise: Promise, digest: str, who: str) -> dict[str, Any]:
        """Accept all selected structures; a case that fails does not stop the others.

        Args:
            promise: the selection.
            digest: of ``preview``.
            who: user name.

        Returns:
            ``batch``: id for ``undo``; ``cases``, ``structures``: numbers of what was accepted; ``failed``: case ->
            reason.

        Raises:
            Conflict: the selection has changed since, or is empty.
            UserError: a Dice outside 0 to 1.
        """
        chosen = self._chosen(promise)
        if not chosen:
            raise Conflict(f"no waiting case has structures with a lower bound of at least {promise.dice:g}")
        if digest != _digest(promise, chosen):
            raise Conflict("the pseudo labels or decisions have changed in the meantime; confirm the new selection")
        batch, failed, accepted = uuid.uuid4().hex[:16], dict[str, str](), list[int]()
        about = {"dice": promise.dice, "certainty": CERTAINTY, "batch": batch}
        for case in chosen:
            try:
                info = {"user": who, PROMISE: about}
                self.review.accept_promised(case.item.case, case.digest, case.structures, info)
                accepted.append(len(case.structures))
            except Exception as error:  # the labels that are written already must be audited, and can be undone
                logger.exception("acceptance of %s", case.item.case)
                failed[case.item.case] = str(error) or type(error).__name__
        return {"batch": batch, "cases": len(accepted), "structures": sum(accepted), "failed": failed}

    def undo(self, batch: str) -> dict[str, Any]:
        """Undo an acceptance where the label is still there; the labels go to the history.

        Returns:
            ``undone``: number of cases; ``failed``: case -> reason.

        Raises:
            NotFound: no label was accepted so, or all were replaced or undone since.
        """
        items = queue_items(self.review.study, self.review.datastore.label_infos())
        cases = [c for c, item in items.items() if (item.info.get(PROMISE) or {}).get("batch") == batch]
        if not cases:
            raise NotFound(f"no accepted label belongs to {batch!r}; it was undone, or the labels were replaced")
        failed = dict[str, str]()
        for case in cases:
            try:
                self.review.undo(case)
            except (UserError, OSError) as error:
                failed[case] = str(error)
        return {"undone": len(cases) - len(failed), "failed": failed}

    def _chosen(self, promise: Promise) -> list[SelectedCase]:
        if not 0 <= promise.dice <= 1:
            raise UserError(f"dice is a Dice from 0 to 1, not {promise.dice}")
        items = queue_items(self.review.study, self.review.datastore.label_infos())
        waiting = [item for _, item in sorted(items.items()) if item.state == "waiting"]
        chosen = [(item, names) for item in waiting if (names := promise.structures_of(item))]
        return [SelectedCase(item, names, self.review.digest(item.case)) for item, names in chosen]


def _digest(promise: Promise, chosen: list[SelectedCase]) -> str:
    # With the bounds: the same masks may be labelled again with another policy.
    bounds = [[[name, case.item.structures[name]["lower_bound"]] for name in case.structures] for case in chosen]
    parts = [[case.item.case, case.digest, found] for case, found in zip(chosen, bounds, strict=True)]
    return hashlib.sha256(json.dumps([asdict(promise), parts]).encode()).hexdigest()[:32]
