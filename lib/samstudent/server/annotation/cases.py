"""List of the cases of a study for the tab Annotate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from samstudent.errors import UserError
from samstudent.imaging.label_tags import FINAL, PSEUDO
from samstudent.server.annotation.service import AnnotationService

#: ``draft``: this person has a draft; ``sent``: a reviewer sent the case to the annotators.
CaseState = Literal["unlabelled", "draft", "sent", "labelled", "flagged"]
STATES: tuple[CaseState, ...] = get_args(CaseState)


@dataclass(frozen=True)
class CasePage:
    """Requested part of the list.

    Attributes:
        state: only cases in this state; None: all.
        search: part of the case id; upper and lower case do not matter.
        first: index of the first case.
        count: largest number of cases.
    """

    state: str | None = None
    search: str = ""
    first: int = 0
    count: int = 50

    def check(self) -> None:
        """Raises UserError."""
        if self.state is not None and self.state not in STATES:
            raise UserError(f"state must be one of {', '.join(STATES)}, not {self.state!r}")
        if self.first < 0 or not 1 <= self.count <= 500:
            raise UserError(f"first must be at least 0 and count from 1 to 500, not {self.first} and {self.count}")


def case_list(service: AnnotationService, page: CasePage, who: str) -> dict[str, Any]:
    """Cases with their state, sorted by id, as JSON.

    Args:
        service: drawing of labels.
        page: the requested part.
        who: person, for the drafts.
    """
    page.check()
    infos, flags = service.datastore.label_infos(), service.study.flags.all()
    drafts, sent = service.drafts.cases(who), set(service.study.reviews.sent())
    items = []
    for case, labels in sorted(infos.items()):
        state: CaseState = "labelled" if FINAL in labels else "sent" if case in sent else "unlabelled"
        state = "flagged" if case in flags else "draft" if case in drafts else state
        items.append({"case": case, "state": state, "pseudo": PSEUDO in labels})
    counts = {state: sum(item["state"] == state for item in items) for state in STATES}
    search = page.search.casefold()
    chosen = [i for i in items if page.state in (None, i["state"]) and search in str(i["case"]).casefold()]
    return {
        "total": len(chosen),
        "first": page.first,
        "counts": counts,
        "cases": chosen[page.first : page.first + page.count],
    }
