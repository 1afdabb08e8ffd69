"""Active learning as the host knows it: strategies that read tables, scoring methods that fill them.

A strategy is waited for by somebody, so it computes nothing but the selected. Scoring runs in a child process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from numpy.typing import NDArray

from samstudent.active_learning.scores import disagreement_score, entropy_score
from samstudent.active_learning.state import Reservation, SelectionState
from samstudent.active_learning.strategies import STRATEGIES, CasePool, select_case
from samstudent.errors import UserError, explain
from samstudent.pseudolabels.review import Reviews
from samstudent.rounds.holdout import HoldOut
from samstudent.task import ActiveLearningSection, Task
from samstudent.util.progress import StepReport, log_progress

logger = logging.getLogger(__name__)

#: Path of an image -> the student's probabilities, float32 (S, *spatial), and SAM's agreement with each of its masks.
Predict = Callable[[str], tuple[NDArray[np.float32], Sequence[float | None]]]
#: Path of an image -> its SAM embedding, averaged over the image (and the slices of a volume), float32 (D,).
Embed = Callable[[str], NDArray[np.float32]]

#: A client may ask for another time, but not keep a case from everybody for ever.
LONGEST_RESERVATION = 24 * 60.0
DESCRIPTIONS = {
    "uniform": "Any unlabelled case, each as likely",
    "entropy": "The case that the student is least sure of",
    "disagreement": "The case where student and SAM agree least",
    "diversity": "The case least like those labelled; needs no student",
    "mixed": "Uncertain and unlike those labelled",
}


class SelectionStrategy(Strategy):  # type: ignore[misc]
    """One strategy of ``active_learning.strategies`` behind the host's interface; reserves what it gives.

    Args:
        name: which strategy.
        state: the study's tables.
        holdout: the study's hold-out.
        section: the task's; for how long a case is reserved.
        rng: for all that is drawn; None: from the system.
        reviews: which cases reviewers sent to the annotators.
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
        """With ``config``, which Slicer shows as options and sends back."""
        return {**super().info(), "config": {"reserve_minutes": self.section.reserve_minutes}}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The next case for a client, reserved for it.

        A client's new request gives up what it was offered before and has not worked on. What it was shown within
        the time of a reservation comes again only when nothing else is left; then what others hold is shared.

        Args:
            request: ``client_id`` (or ``user``) tells clients apart; ``reserve_minutes`` overrides the task's. Clients
                without a name count as one, and keep what they were offered: each may be somebody else.
            datastore: the host's.

        Returns:
            ``id``, ``selected_by`` (the strategy, what it fell back to, ``hold-out`` or ``review``) and ``score``; of a
            case that another client holds, too, ``shared_with`` (that client) and ``reserved_until`` (ISO 8601). None
            when every case is labelled or excluded: see ``why_none``.
        """
        client = str(request.get("client_id") or request.get("user") or "")
        minutes = _minutes(request.get("reserve_minutes", self.section.reserve_minutes))
        if client:
            self.state.release(client)
        unlabelled, labelled = _cases(datastore, self.holdout)
        unlabelled -= unreadable(datastore).keys()
        tables, sent = self.state.tables(), self._sent(labelled)
        lost: set[str] = set()
        while True:
            held = self.state.reservations()
            candidates = _tier(unlabelled - lost, held, self.state.shown(client, minutes), client)
            # What somebody has on screen will be labelled: the next one should be unlike it, too.
            covered = (labelled | (unlabelled & held.keys())) - candidates
            pool = CasePool(candidates, covered, self.holdout.ids, self.holdout.fraction, sent)
            selected = select_case(self.name, pool, tables, self.rng)
            if selected is None:
                return None
            if (problem := _image_problem(datastore, selected.case)) is not None:
                logger.warning("Case %s is not offered: %s", selected.case, problem)
                unlabelled.discard(selected.case)
                continue
            answer = {"id": selected.case, "selected_by": selected.by, "score": selected.score}
            other = held.get(selected.case)
            if other is None or other.client == client:
                reserved = self.state.reserve(selected.case, client, minutes)
            else:
                self.state.share(selected.case, client)
                answer |= _shared(other)
                reserved = True
            if reserved:
                logger.info("Next sample for %r: %s, by %s", client, selected.case, selected.by)
                return answer
            lost.add(selected.case)  # somebody was faster

    def why_none(self, datastore: Datastore) -> str:
        """Reason that there is no case to offer, for people."""
        unlabelled, labelled = _cases(datastore, self.holdout)
        every = len(datastore.list_images())
        if not every:
            return "there is no image in the study"
        if unlabelled:
            return "another client was given the last case at this moment; ask again"
        kept = every - len(labelled)
        return f"all {len(labelled)} cases are labelled" + (f"; {kept} more are kept for testing" if kept else "")

    def _sent(self, labelled: set[str]) -> list[str]:
        """What reviewers sent, without what was labelled since."""
        if self.reviews is None:
            return []
        self.reviews.forget(labelled)
        return self.reviews.sent()


def strategies(
    task: Task, state: SelectionState, holdout: HoldOut, reviews: Reviews | None = None
) -> dict[str, Strategy]:
    """All strategies by their names, and the task's own as ``random``, the only one that OHIF asks for."""
    section = task.active_learning
    by_name: dict[str, Strategy] = {
        name: SelectionStrategy(name, state, holdout, section, reviews=reviews) for name in STRATEGIES
    }
    return {**by_name, "random": by_name[section.strategy]}


class UncertaintyScoring(ScoringMethod):  # type: ignore[misc]
    """Entropy and disagreement of the unlabelled cases that may train, unless the present ones are up to date.

    Args:
        state: the study's tables.
        holdout: the study's hold-out; its cases are drawn, not chosen, and need no score.
        version: what the scores depend on (the champion's digest, and SAM's and the recipe's where they
            may change); None: there is no student yet.
        predict: probabilities of the student, and SAM's agreement, on one image.
        overlap: the task's; see ``entropy_score``.
    """

    def __init__(
        self,
        state: SelectionState,
        holdout: HoldOut,
        version: Callable[[], str | None],
        predict: Predict,
        overlap: bool,
    ) -> None:
        super().__init__("Entropy of the student, and its disagreement with SAM, for each unlabelled case")
        self.state, self.holdout, self.version = state, holdout, version
        self.predict, self.overlap = predict, overlap

    def info(self) -> dict[str, Any]:
        return {**super().info(), "config": {}}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score; each case is stored at once, so a kill loses one case's work.

        Returns:
            ``scored`` and ``current``: numbers of cases; ``failed``: case -> why.
        """
        version = self.version()
        if version is None:
            return {"scored": 0, "current": 0, "failed": {}, "note": "no student is served that fits the task"}

        def score(case: str) -> None:
            probabilities, agreements = self.predict(datastore.get_image_uri(case))
            self.state.put_scores("entropy", {case: entropy_score(probabilities, self.overlap)}, version)
            # Last: a case counts as done when it has this one.
            self.state.put_scores("disagreement", {case: disagreement_score(agreements)}, version)

        unlabelled, _ = _cases(datastore, self.holdout)
        cases = self.holdout.trainable(unlabelled)
        return _for_each(cases, self.state.scored("disagreement", version), score, "uncertainty", datastore)


class DiversityScoring(ScoringMethod):  # type: ignore[misc]
    """The SAM embedding, averaged over the image, of every case that may train, labelled or not.

    Args:
        state: the study's tables.
        holdout: the study's hold-out.
        version: what the vectors depend on: the backend's digest.
        embed: the averaged embedding of one image; best through the embedding cache, where refinement finds it again.
    """

    def __init__(self, state: SelectionState, holdout: HoldOut, version: Callable[[], str], embed: Embed) -> None:
        super().__init__("SAM embedding of each case, for choosing cases unlike those labelled")
        self.state, self.holdout, self.version, self.embed = state, holdout, version, embed

    def info(self) -> dict[str, Any]:
        return {**super().info(), "config": {}}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Embed; stored at once and returned as by ``UncertaintyScoring``."""
        version = self.version()

        def score(case: str) -> None:
            self.state.put_vectors({case: self.embed(datastore.get_image_uri(case))}, version)

        unlabelled, labelled = _cases(datastore, self.holdout)
        cases = self.holdout.trainable(unlabelled | labelled)
        return _for_each(cases, self.state.cases_with_vector(version), score, "diversity", datastore)


def _cases(datastore: Datastore, holdout: HoldOut) -> tuple[set[str], set[str]]:
    """(unlabelled, labelled) cases, without the excluded ones; the hold-out decides about new ones."""
    unlabelled = set(datastore.get_unlabeled_images())
    labelled = set(datastore.list_images()) - unlabelled
    holdout.extend(unlabelled | labelled, labelled)
    return unlabelled - holdout.excluded, labelled - holdout.excluded


def unreadable(datastore: Datastore) -> dict[str, str]:
    """Case id -> why its image cannot be used, as far as the datastore knows."""
    known: dict[str, str] = getattr(datastore, "unreadable", dict)()
    return known


def _image_problem(datastore: Datastore, case: str) -> str | None:
    """Why the image of a case cannot be used; None where it can, or where a datastore (the host's) does not tell."""
    problem: str | None = getattr(datastore, "image_problem", lambda case: None)(case)
    return problem


def _tier(cases: set[str], held: Mapping[str, Reservation], shown: Sequence[str], client: str) -> set[str]:
    """Those of the cases that a client may be given now: asking again is asking for another.

    Args:
        cases: without a label.
        held: case -> reservation.
        shown: what this client was shown, the latest last.
        client: who asks.

    Returns:
        What nobody holds and the client was not shown; else one of: what nobody holds, the client's own that it was not
        shown last, others' (first what they have not begun, then what was offered longest ago), the client's own. What
        the client was shown longest ago comes first.
    """
    turns = {case: turn for turn, case in enumerate(shown)}

    def first(some: set[str]) -> set[str]:
        def order(case: str) -> tuple[int, bool, float, str]:
            reservation = held.get(case)
            worked, offered = (reservation.worked, reservation.offered) if reservation else (False, 0.0)
            return turns.get(case, -1), worked, offered, case

        return {min(some, key=order)} if some else set()

    free = cases - held.keys()
    if new := free - turns.keys():
        return new
    own = {case for case in cases - free if held[case].client == client}
    return first(free) or first(own - set(shown[-1:])) or first(cases - free - own) or own


def _shared(other: Reservation) -> dict[str, str]:
    until = datetime.fromtimestamp(other.until, timezone.utc).isoformat(timespec="seconds")
    return {"shared_with": other.client or "a client without a name", "reserved_until": until}


def _for_each(
    cases: Iterable[str], current: set[str], score: Callable[[str], None], name: str, datastore: Datastore
) -> dict[str, Any]:
    """Score what is not up to date. A case that fails is reported and does not stop the others; one whose image cannot
    be read is not tried again until the image changes."""
    cases, broken = list(cases), unreadable(datastore)
    todo = [case for case in cases if case not in current]
    failed = {case: broken[case] for case in todo if case in broken}
    report = StepReport(log_progress, f"scoring: {name}")
    readable = [case for case in todo if case not in broken]
    for number, case in enumerate(readable, 1):
        try:
            score(case)
        except Exception as error:
            # A broken file or a full disk needs no stack trace in the log.
            expected = explain(error) if isinstance(error, UserError | OSError) else None
            reason = expected or f"{type(error).__name__}: {error}"
            failed[case] = _image_problem(datastore, case) or reason
            logger.warning("case %s could not be scored (%s): %s", case, name, failed[case], exc_info=not expected)
        else:
            getattr(datastore, "note_readable", lambda case: None)(case)
        report(number, len(readable), message=case)
    return {"scored": len(todo) - len(failed), "current": len(cases) - len(todo), "failed": failed}


def _minutes(value: object) -> float:
    try:
        minutes = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        minutes = float("nan")
    if not 0 <= minutes <= LONGEST_RESERVATION:
        raise UserError(f"reserve_minutes must be a number from 0 to {LONGEST_RESERVATION:.0f}, not {value!r}")
    return minutes
