"""Overview of the study for the review page."""

from __future__ import annotations

from collections import Counter
from typing import Any

from samstudent.imaging.label_tags import FINAL, PSEUDO
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.round_record import RoundRecord
from samstudent.server.review_metadata import APPROVED, case_review
from samstudent.server.review_page.effort import effort
from samstudent.server.review_page.progress import progress_of_jobs
from samstudent.server.review_page.queue import Infos, queue_items
from samstudent.server.review_page.service import ReviewService


def overview(review: ReviewService) -> dict[str, Any]:
    """Counts, served student, running jobs, schedule and rounds, as JSON values."""
    context, ledger = review.context, review.study.ledger
    infos = review.datastore.label_infos()
    records = ledger.rounds()
    running = next((r for r in reversed(records) if r.status == "running"), None)
    task = review.task
    study = {
        "name": task.name,
        "description": task.description,
        "structures": task.names,
        "dimension": task.dimension,
    }
    return {
        "study": study,
        "counts": counts(review, infos),
        "effort": effort(infos),
        "problems": problems(review),
        "served": _served(ledger),
        "served_fault": context.student_fault(),
        "jobs": progress_of_jobs(context.jobs, running),
        "schedule": context.scheduler.status(),
        "rounds": [_brief(record) for record in records],
    }


def problems(review: ReviewService) -> list[str]:
    """One line for each ignored file and other problem of the study's files."""
    return list(getattr(review.datastore, "problems", ()))


def counts(review: ReviewService, infos: Infos) -> dict[str, int]:
    """Numbers of cases; ``structures_...``: numbers of structures in pseudo labels by status of the quality filter."""
    holdout = review.study.holdout
    barred = holdout.ids | holdout.excluded
    flagged = review.study.flags.all().keys() & infos.keys()
    reviews = {case: found for case, labels in infos.items() if (found := case_review(labels))}
    labelled = {case for case, labels in infos.items() if FINAL in labels}
    pseudo = {case for case, labels in infos.items() if PSEUDO in labels and case not in labelled | barred}
    by_status = Counter(
        str(structure.get("status"))
        for case in pseudo
        for structure in (infos[case][PSEUDO].get("structures") or {}).values()
    )
    states = Counter(entry.state for entry in queue_items(review.study, infos).values())
    return {
        "images": len(infos),
        "labelled": len(labelled),
        "held_out": len(holdout.ids & infos.keys()),
        "held_out_labelled": len(holdout.ids & labelled),
        "excluded": len(holdout.excluded & infos.keys()),
        "flagged": len(flagged),
        "approved": len([case for case, found in reviews.items() if found.status == APPROVED and case not in flagged]),
        "pseudo_labelled": len(pseudo),
        "unlabelled": len(infos.keys() - labelled - pseudo),
        "waiting": states["waiting"],
        "accepted": states["accepted"],
        "rejected": states["rejected"],
        "sent": states["sent"],
        "structures_accepted": by_status["accepted"],
        "structures_rejected": by_status["rejected"],
        "structures_absent": by_status["absent"],
    }


def _served(ledger: Ledger) -> dict[str, Any] | None:
    champion, history = ledger.champion(), ledger.history()
    if champion is None:
        return None
    last = history[-1]
    promotion = {"since": last.time, "by": last.who, "how": last.kind, "why": last.why, "before": ledger.previous()}
    return _brief(champion) | promotion


def _brief(record: RoundRecord) -> dict[str, Any]:
    fields = {
        "dice_bound",
        "id",
        "status",
        "promoted",
        "started",
        "finished",
        "reason",
        "dice",
        "decision",
        "error",
        "steps",
        "step",
        "training",
    }
    brief = record.model_dump(mode="json", include=fields)
    brief["labels"], brief["pseudo"] = len(record.labels_used), record.pseudo_used.n
    brief["left_out"], brief["not_compared"] = record.unreadable, record.not_compared
    brief["held_out"] = len(set(record.holdout_ids) - set(record.not_compared))
    brief["servable"] = record.model_digest is not None
    return brief
