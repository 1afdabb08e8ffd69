"""Case lists for active learning: labelled, unlabelled and unreadable cases of a datastore."""

from __future__ import annotations

from monailabel.interfaces.datastore import Datastore

from samstudent.rounds.holdout import HoldOut


def split_cases(datastore: Datastore, holdout: HoldOut) -> tuple[set[str], set[str]]:
    """Ids of the (unlabelled, labelled) cases without excluded ones; new cases are assigned to the hold-out first."""
    unlabelled = set(datastore.get_unlabeled_images())
    labelled = set(datastore.list_images()) - unlabelled
    holdout.extend(unlabelled | labelled, labelled)
    return unlabelled - holdout.excluded, labelled - holdout.excluded


def unreadable(datastore: Datastore) -> dict[str, str]:
    """Reasons by case id of the images that are known to be unusable."""
    known: dict[str, str] = getattr(datastore, "unreadable", dict)()
    return known


def image_problem(datastore: Datastore, case: str) -> str | None:
    """Reason that the image of a case is unusable; None if it is usable, or if the datastore has no such check."""
    problem: str | None = getattr(datastore, "image_problem", lambda case: None)(case)
    return problem
