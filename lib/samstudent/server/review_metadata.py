"""Review of a human label as metadata, as 3D Slicer's Reviewer extension reads and writes it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from samstudent.errors import UserError
from samstudent.imaging.label_tags import FINAL, ORIGINAL
from samstudent.rounds.flags import Flag
from samstudent.server.auth.roles import RoleRequired, has_role, role_name

#: Key of the metadata of a label (a name of the extension).
KEY = "segmentationMeta"
#: Key of the metadata of a human label: tag of the version that was approved and became this label.
APPROVED_VERSION = "approved_version"
APPROVED: Literal["approved"] = "approved"
FLAGGED: Literal["flagged"] = "flagged"
#: Key of the metadata of a label: whether its review was made on the page.
ON_PAGE = "reviewed_on_page"
#: Tags of labels that can have a review.
TAG = re.compile(rf"{FINAL}|{ORIGINAL}|version_\d{{1,9}}")


class LabelReview(BaseModel):
    """Review of one label, the value of ``KEY``.

    Attributes:
        status: decision; "" for none.
        level: difficulty of the case.
        approved_by: name of the reviewer, whatever the decision.
        comment: text of the reviewer.
        edit_time: time of the decision, seconds since 1970; "" if unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Literal["approved", "flagged", "segmented", "not segmented", ""] = ""
    level: Literal["easy", "medium", "hard", ""] = ""
    approved_by: str = Field(default="", alias="approvedBy", max_length=200)
    comment: str = Field(default="", max_length=2000)
    edit_time: int | Literal[""] = Field(default="", alias="editTime")

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> LabelReview | None:
        """Review in the metadata of a label; None: there is none, or it is not valid."""
        try:
            return cls.model_validate(info[KEY])
        except (KeyError, ValidationError):
            return None

    def as_info(self) -> dict[str, Any]:
        """Metadata with this review. All keys are written, because the extension requires them."""
        return {KEY: self.model_dump(by_alias=True)}

    def without_decision(self) -> LabelReview:
        """The same without status; the time stays, so that repetitions are recognised."""
        return self.model_copy(update={"status": ""})


def sent_review(tag: str, info: Mapping[str, Any]) -> LabelReview | None:
    """Review in the metadata that a client sends; None: there is none.

    Raises:
        UserError: it is not valid, or the tag is none of the extension.
        RoleRequired: the user may not approve labels.
    """
    if KEY not in info:
        return None
    try:
        review = LabelReview.model_validate(info[KEY])
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{KEY}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if not TAG.fullmatch(tag):
        raise UserError(f"{KEY}: tag {tag!r} cannot have a review; use final, or version_1, version_2, ...")
    if review.status == APPROVED and not has_role("reviewer"):
        raise RoleRequired(f'{KEY}: Role "{role_name("reviewer")}" is required to approve a label')
    return review


def approval(who: str) -> dict[str, Any]:
    """Metadata of a label that a user approves when it is saved."""
    review = LabelReview(status=APPROVED, approvedBy=who, editTime=int(time.time()))
    return review.as_info() | {ON_PAGE: True}


def counting_tag(labels: Mapping[str, Mapping[str, Any]]) -> str:
    """Tag whose review is that of the case: of the approved version that is the human label now, else ``final``.

    Args:
        labels: metadata by tag, with a human label.
    """
    for tag, info in labels.items():
        if tag != FINAL and _is_approved(info) and is_final(tag, labels):
            return tag
    return FINAL


def other_versions(labels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tags of the versions of the extension that are not the human label, newest first.

    Args:
        labels: metadata by tag.
    """
    versions = [tag for tag in labels if tag not in (FINAL, ORIGINAL) and TAG.fullmatch(tag)]
    found = [tag for tag in versions if not is_final(tag, labels)]
    return sorted(found, key=lambda tag: int(tag.removeprefix("version_")), reverse=True)


def case_review(labels: Mapping[str, Mapping[str, Any]]) -> LabelReview | None:
    """Review of the human label of a case; None: there is no label or review."""
    return LabelReview.of(labels[counting_tag(labels)]) if FINAL in labels else None


def for_extension(objects: Mapping[str, Any], flags: Mapping[str, Flag]) -> None:
    """Change the host's list of objects for the extension.

    The author of a human label is where the extension looks for it, at the selection of the case by a strategy.
    An approval of a version that is not the human label any more, and a flag that was removed, are left out. A flagged
    case has a flagged label. Reviews that the extension could not read are left out.

    Args:
        objects: case id -> image and labels, as JSON; changed in place.
        flags: case id -> flag.
    """
    for case, entry in objects.items():
        infos = {tag: label["info"] for tag, label in entry["labels"].items()}
        if author := infos.get(FINAL, {}).get("user") or infos.get(FINAL, {}).get("client_id"):
            selection = {"client_id": author, "ts": infos[FINAL].get("ts")}
            entry["image"]["info"].setdefault("strategy", {})["annotate"] = selection
        for tag, info in infos.items():
            review = LabelReview.of(info)
            if review is None or not TAG.fullmatch(tag):
                info.pop(KEY, None)
                continue
            replaced = review.status == APPROVED and not is_final(tag, infos)
            if replaced or (review.status == FLAGGED and case not in flags):
                review = review.without_decision()
            info |= review.as_info()
        is_shown = any(info.get(KEY, {}).get("status") == FLAGGED for info in infos.values())
        if case in flags and FINAL in infos and not is_shown:
            tag = counting_tag(infos)
            infos[tag] |= flagged_review(infos[tag], flags[case]).as_info()


def flagged_review(info: Mapping[str, Any], flag: Flag) -> LabelReview:
    """Review of a flagged case, with the level in the metadata of its label."""
    level = (LabelReview.of(info) or LabelReview()).level
    return LabelReview(
        status=FLAGGED, level=level, approvedBy=flag.who[:200], comment=flag.reason, editTime=int(flag.time)
    )


def _is_approved(info: Mapping[str, Any]) -> bool:
    review = LabelReview.of(info)
    return review is not None and review.status == APPROVED


def is_final(tag: str, labels: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a label is the human label of its case, or has the same content."""
    final = labels.get(FINAL, {})
    same = "sha256" in final and labels[tag].get("sha256") == final["sha256"]
    return tag == FINAL or final.get(APPROVED_VERSION) == tag or same
