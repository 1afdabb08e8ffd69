"""Active-learning strategies behind the host's interface, with reservations of cases.

They only read tables, because an annotator waits for the result; ``scoring_methods`` fills the tables.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from samstudent.active_learning.state import Reservation, SelectionState
from samstudent.active_learning.strategies import STRATEGIES, CasePool, select_case
from samstudent.errors import UserError
from samstudent.pseudolabels.review import Reviews
from samstudent.rounds.holdout import HoldOut
from samstudent.server.tasks.case_lists import image_problem, split_cases, unreadable
from samstudent.task import ActiveLearningSection, Task

logger = logging.getLogger(__name__)

#: Upper bound of ``reserve_minutes`` in a client's request, minutes: no case remains reserved permanently.
LONGEST_RESERVATION = 24 * 60.0
DESCRIPTIONS = {
    "uniform": "Random unlabelled case",
    "entropy": "Case with the highest predictive entropy of the student",
    "disagreement": "Case with the lowest agreement between student and SAM",
    "diversity": "Case with the SAM embedding farthest from the labelled cases; needs no student",
    "mixed": "Combination of uncertainty and diversity",
}


class SelectionStrategy(Strategy):  # type: ignore[misc]
    """One strategy of ``active_learning.strategies`` behind the host's interface; reserves the selected case.

    Args:
        name: key of ``STRATEGIES``.
        state: scores, embeddings and reservations of the study.
        holdout: hold-out of the study.
        section: section ``active_learning`` of the task, with the duration of a reservation.
        rng: random generator; None: seeded by the operating system.
        reviews: review decisions, with the cases that reviewers sent to the annotators.
    """

    def __init__(
        self,
        name: str,
        state: SelectionState,
        holdout: HoldOut,
        section: ActiveLearningSection,
        rng: np.random.Generator | None = None,
        reviews: Reviews | None = None,
    ) -> None:
        super().__init__(DESCRIPTIONS[name])
        self.name = name
        self.state, self.holdout, self.section = state, holdout, section
        self.rng = rng or np.random.default_rng()
        self.reviews = reviews

    def info(self) -> dict[str, Any]:
        """The host's description, with ``config``: options that 3D Slicer displays and sends with each request."""
        return {**super().info(), "config": {"reserve_minutes": self.section.reserve_minutes}}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Select the next case for a client and reserve it.

        A new request of a client releases its reservations of cases that it has not worked on. A case that the client
        received within the duration of a reservation is repeated only when no other is left; after that, cases
        reserved by other clients are shared.

        Args:
            request: ``client_id`` (or ``user``) identifies the client; ``reserve_minutes`` overrides the task's value.
                Requests without a name do not release reservations: they may come from different clients.
            datastore: images and labels of the study.

        Returns:
            ``id``, ``selected_by`` (the strategy, its fallback, ``hold-out`` or ``review``) and ``score``; for a case
            reserved by another client also ``shared_with`` (that client) and ``reserved_until`` (ISO 8601). None if
            every case is labelled or excluded: see ``reason_for_none``.
        """
        client = str(request.get("client_id") or request.get("user") or "")
        minutes = _minutes(request.get("reserve_minutes", self.section.reserve_minutes))
        if client:
            self.state.release(client)
        unlabelled, labelled = split_cases(datastore, self.holdout)
        unlabelled -= unreadable(datastore).keys()
        tables, sent = self.state.tables(), self._sent(labelled)
        taken: set[str] = set()
        while True:
            held = self.state.reservations()
            candidates = _candidates(unlabelled - taken, held, self.state.shown(client, minutes), client)
            # A reserved case will be labelled, so diversity counts it as labelled.
            covered = (labelled | (unlabelled & held.keys())) - candidates
            pool = CasePool(candidates, covered, self.holdout.ids, self.holdout.fraction, sent)
            selected = select_case(self.name, pool, tables, self.rng)
            if selected is None:
                return None
            if (problem := image_problem(datastore, selected.case)) is not None:
                logger.warning("case %s is skipped: %s", selected.case, problem)
                unlabelled.discard(selected.case)
                continue
            response = {"id": selected.case, "selected_by": selected.by, "score": selected.score}
            other = held.get(selected.case)
            if other is None or other.client == client:
                reserved = self.state.reserve(selected.case, client, minutes)
            else:
                self.state.record_offer(selected.case, client)
                response |= _shared(other)
                reserved = True
            if reserved:
                logger.info("next sample for client %r: %s, selected by %s", client, selected.case, selected.by)
                return response
            taken.add(selected.case)  # reserved by another client in the meantime

    def reason_for_none(self, datastore: Datastore) -> str:
        """Message for the user when there is no next case."""
        unlabelled, labelled = split_cases(datastore, self.holdout)
        every = len(datastore.list_images())
        if not every:
            return "there is no image in the study"
        if unlabelled:
            return "the last case was reserved by another client at the same time; try again"
        excluded = every - len(labelled)
        return f"all {len(labelled)} cases are labelled" + (
            f"; {excluded} more are test cases or flagged as unusable" if excluded else ""
        )

    def _sent(self, labelled: set[str]) -> list[str]:
        """Cases that reviewers sent to the annotators and that have no new label yet."""
        if self.reviews is None:
            return []
        self.reviews.forget(labelled)
        return self.reviews.sent()


def strategies(
    task: Task, state: SelectionState, holdout: HoldOut, reviews: Reviews | None = None
) -> dict[str, Strategy]:
    """All strategies by name; ``random``, the only one that OHIF requests, is the one of the task file."""
    section = task.active_learning
    by_name: dict[str, Strategy] = {
        name: SelectionStrategy(name, state, holdout, section, reviews=reviews) for name in STRATEGIES
    }
    return {**by_name, "random": by_name[section.strategy]}


def _candidates(cases: set[str], held: Mapping[str, Reservation], shown: Sequence[str], client: str) -> set[str]:
    """Cases from which the next one for a client is selected; a repeated request selects another case.

    Args:
        cases: ids of unlabelled cases.
        held: reservations by case id.
        shown: ids of the cases that this client received, the latest last.
        client: name of the requesting client.

    Returns:
        All unreserved cases that the client has not received; if there are none, one case of the first of these groups
        that is not empty: unreserved, reserved by the client except the latest, reserved by others (first cases without
        work on them, then the oldest reservation), reserved by the client. Within a group the case that the client
        received longest ago comes first.
    """
    position = {case: index for index, case in enumerate(shown)}

    def first(some: set[str]) -> set[str]:
        def order(case: str) -> tuple[int, bool, float, str]:
            reservation = held.get(case)
            worked, offered = (reservation.worked, reservation.offered) if reservation else (False, 0.0)
            return position.get(case, -1), worked, offered, case

        return {min(some, key=order)} if some else set()

    free = cases - held.keys()
    if new := free - position.keys():
        return new
    own = {case for case in cases - free if held[case].client == client}
    return first(free) or first(own - set(shown[-1:])) or first(cases - free - own) or own


def _shared(other: Reservation) -> dict[str, str]:
    """Keys of the result that name the other client of a shared case."""
    until = datetime.fromtimestamp(other.until, timezone.utc).isoformat(timespec="seconds")
    return {"shared_with": other.client or "a client without a name", "reserved_until": until}


def _minutes(value: object) -> float:
    """Validated ``reserve_minutes``; raises UserError."""
    try:
        minutes = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        minutes = float("nan")
    if not 0 <= minutes <= LONGEST_RESERVATION:
        raise UserError(f"reserve_minutes must be a number from 0 to {LONGEST_RESERVATION:.0f}, not {value!r}")
    return minutes
