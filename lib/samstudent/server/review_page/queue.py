"""Review queue: pseudo labels with the state of their review, in the order of their quality."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from samstudent.errors import NotFound, UserError
from samstudent.imaging.label_tags import FINAL, PSEUDO
from samstudent.pseudolabels.review import QualitySummary, worst_first
from samstudent.rounds.study import Study
from samstudent.server.datastore.identifiers import ACCEPTED_FROM

#: ``waiting``: no decision yet.
State = Literal["waiting", "rejected", "sent", "accepted"]
STATES: tuple[State, ...] = get_args(State)

#: Orders of waiting cases: lowest quality first, or lowest lower bound of Dice first.
ORDERS = ("quality", "bound")

#: Label metadata by case id and tag.
Infos = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class QueueItem:
    """One case of the queue.

    Attributes:
        case: case id.
        state: state of the review.
        info: metadata of the pseudo label.
        who, time: user and time (seconds since 1970) of the decision, or None.
    """

    case: str
    state: State
    info: Mapping[str, Any]
    who: str | None = None
    time: float | None = None

    @property
    def structures(self) -> dict[str, dict[str, Any]]:
        """Status and quality by structure."""
        return dict(self.info.get("structures") or {})

    def as_json(self, structure: str | None = None) -> dict[str, Any]:
        """Item of a list; with quality and lower bound of one structure, or of all."""
        quality = asdict(QualitySummary.of(self.structures, structure))
        return {"case": self.case, "state": self.state, "who": self.who, "time": self.time} | quality


@dataclass(frozen=True)
class QueuePage:
    """Requested part of the queue.

    Attributes:
        state: state of the review.
        structure: only cases with this structure, sorted by its quality; None: all cases.
        first: index of the first item.
        count: largest number of items.
        order: of waiting cases, a name in ``ORDERS``.
        bound: only cases whose structures all have at least this lower bound of Dice, 0 to 1; None: all cases.
    """

    state: str
    structure: str | None
    first: int
    count: int
    order: str = "quality"
    bound: float | None = None

    def check(self, structures: Collection[str]) -> None:
        """Validate the request. Raises UserError or NotFound."""
        if self.state not in STATES:
            raise UserError(f"state must be one of {', '.join(STATES)}, not {self.state!r}")
        if self.structure is not None and self.structure not in structures:
            raise NotFound(f"structure {self.structure!r}: the task has {', '.join(structures)}")
        if self.order not in ORDERS:
            raise UserError(f"order must be one of {', '.join(ORDERS)}, not {self.order!r}")
        if self.bound is not None and not 0 <= self.bound <= 1:
            raise UserError(f"bound is a Dice from 0 to 1, not {self.bound}")
        if self.first < 0 or not 1 <= self.count <= 500:
            raise UserError(f"first must be at least 0 and count from 1 to 500, not {self.first} and {self.count}")


def queue_items(study: Study, infos: Infos) -> dict[str, QueueItem]:
    """Items of the cases that are or were in the queue, by case id."""
    decisions = study.reviews.decisions()
    barred = study.holdout.ids | study.holdout.excluded
    items = {}
    for case, labels in infos.items():
        if (final := labels.get(FINAL)) is not None:
            if accepted := final.get(ACCEPTED_FROM):
                items[case] = QueueItem(case, "accepted", accepted, final.get("user"), final.get("time"))
            continue
        decision, info = decisions.get(case), labels.get(PSEUDO)
        if case in barred or (info is None and (decision is None or decision.decision != "sent")):
            continue
        if decision is not None and decision.holds_for(info or {}):
            items[case] = QueueItem(case, decision.decision, info or {}, decision.who, decision.time)
        else:
            items[case] = QueueItem(case, "waiting", info or {})
    return items


def page_of(items: Mapping[str, QueueItem], page: QueuePage) -> dict[str, Any]:
    """Page of the queue as JSON: lowest quality or bound first, or latest decision first."""
    chosen = {case: item for case, item in items.items() if item.state == page.state}
    summaries = {case: QualitySummary.of(item.structures, page.structure) for case, item in chosen.items()}
    if page.structure is not None:
        summaries = {case: summary for case, summary in summaries.items() if summary.worst is not None}
    if (bound := page.bound) is not None:
        summaries = {c: s for c, s in summaries.items() if s.lower_bound is not None and s.lower_bound >= bound}
    order = worst_first(summaries, by_bound=page.order == "bound")
    if page.state != "waiting":
        order.sort(key=lambda case: -(chosen[case].time or 0))
    counts = {name: sum(item.state == name for item in items.values()) for name in STATES}
    cases = [chosen[case].as_json(page.structure) for case in order[page.first : page.first + page.count]]
    return {"total": len(order), "first": page.first, "cases": cases, "counts": counts}
