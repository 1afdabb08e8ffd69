"""Reviews of human labels with 3D Slicer's Reviewer extension: flags, approved versions, and their metadata.

The extension reads the complete list of the study, saves edited labels under the tags ``version_1``, ``version_2``,
..., and stores each decision in the metadata of a label, under ``segmentationMeta``. Here:

- a flagged label flags its case (``rounds.flags``), and a case that is flagged on the page has a flagged label;
- an approved version becomes the human label (tag ``final``) and is used for training and everything else from then on;
  the label before it goes to the history. A human label that is saved later replaces it again;
- a repetition is no decision. With each decision the extension also sends the metadata of all other versions of the
  case, as it has read them at its start; these have the time of editing that is stored.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from samstudent.errors import UserError
from samstudent.imaging.label_tags import FINAL, ORIGINAL
from samstudent.rounds.flags import MAX_REASON, Flag
from samstudent.rounds.study import Study
from samstudent.server.auth.current_user import ANONYMOUS
from samstudent.server.auth.roles import RoleRequired, has_role, role_name
from samstudent.server.datastore.study_folder import StudyFolderDatastore

logger = logging.getLogger(__name__)

#: Key of the metadata of a label (a name of the extension).
KEY = "segmentationMeta"
#: Key of the metadata of a human label: tag of the version that was approved and became this label.
APPROVED_VERSION = "approved_version"
APPROVED: Literal["approved"] = "approved"
FLAGGED: Literal["flagged"] = "flagged"
#: Key of the metadata of a label: whether its review was made on the page.
ON_PAGE = "reviewed_on_page"
#: Reason of a flag without a comment.
NO_COMMENT = "flagged in 3D Slicer, without a comment"
_TAG = re.compile(rf"{FINAL}|{ORIGINAL}|version_\d{{1,9}}")


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
    if not _TAG.fullmatch(tag):
        raise UserError(f"{KEY}: tag {tag!r} cannot have a review; use final, or version_1, version_2, ...")
    if review.status == APPROVED and not has_role("reviewer"):
        raise RoleRequired(f'{KEY}: Role "{role_name("reviewer")}" is required to approve a label')
    return review


class LabelReviews:
    """Reviews of the labels of one study.

    Args:
        study: state of the study.
        datastore: its images and labels.
    """

    def __init__(self, study: Study, datastore: StudyFolderDatastore) -> None:
        self.study, self.datastore = study, datastore

    def decide(self, case: str, tag: str, sent: LabelReview, who: str) -> str | None:
        """Store the review of a label, and carry out its decision.

        Args:
            case: case id.
            tag: tag of the label.
            sent: the review.
            who: user name.

        Returns:
            Name of the action for the audit log: ``flag``, ``flag removed`` or ``approve``; None: no decision.

        Raises:
            UserError: the label cannot be used for training, or is a result of a model.
        """
        stored = LabelReview.of(self.datastore.get_label_info(case, tag))
        if stored is not None and stored.edit_time == sent.edit_time != "":
            self._write(case, tag, stored.model_copy(update={"level": sent.level}))
            return None
        action = None
        if sent.status:
            sent = sent.model_copy(update={"approved_by": who})
        if sent.status == APPROVED:
            self._approve(case, tag, who)
            action = "approve"
        elif sent.status == FLAGGED:
            self.study.flags.put(case, _reason(sent), who)
            action = "flag"
        elif stored is not None and stored.status == FLAGGED and self.study.flags.remove(case):
            action = "flag removed"
        self._write(case, tag, sent)
        return action

    def flag(self, case: str, reason: str, who: str) -> Flag:
        """Flag a case, and its label for the extension. Raises as ``Flags.put``."""
        flag = self.study.flags.put(case, reason, who)
        labels = self._labels(case)
        if FINAL in labels:
            tag = counting_tag(labels)
            self._write(case, tag, _flagged(labels[tag], flag), on_page=True)
        return flag

    def unflag(self, case: str) -> bool:
        """Remove the flag of a case and of its labels; False if it has none."""
        removed = self.study.flags.remove(case)
        for tag, info in self._labels(case).items():
            if (review := LabelReview.of(info)) is not None and review.status == FLAGGED:
                self._write(case, tag, review.without_decision(), on_page=bool(info.get(ON_PAGE)))
        return removed

    def kept(self, case: str) -> dict[str, Any]:
        """Metadata for a new human label of a case: the level, and the time, so that repetitions are recognised; of a
        flagged case the complete review."""
        info = self._labels(case).get(FINAL, {})
        review = LabelReview.of(info)
        if review is None:
            return {}
        if case not in self.study.flags.all():
            review = LabelReview(level=review.level, editTime=review.edit_time)
        return review.as_info() | {ON_PAGE: bool(info.get(ON_PAGE))}

    def adopt(self) -> None:
        """Carry out the decisions of a study that was reviewed with another server."""
        for case, labels in self.datastore.label_infos().items():
            found = {tag: LabelReview.of(info) for tag, info in labels.items() if _TAG.fullmatch(tag)}
            reviews = {tag: review for tag, review in found.items() if review is not None}
            approved = {tag: review for tag, review in reviews.items() if review.status == APPROVED and tag != ORIGINAL}
            if approved:
                tag = max(approved, key=lambda name: (approved[name].edit_time or 0, name))
                saved = labels.get(FINAL, {}).get("time", labels.get(FINAL, {}).get("ts", 0))
                if tag != FINAL and (approved[tag].edit_time or 0) > saved:
                    self._try_approve(case, tag, approved[tag].approved_by or ANONYMOUS)
                continue
            flagged = [review for review in reviews.values() if review.status == FLAGGED]
            if flagged and case not in self.study.flags.all():
                self.study.flags.put(case, _reason(flagged[-1]), flagged[-1].approved_by or ANONYMOUS)

    def _try_approve(self, case: str, tag: str, who: str) -> None:
        """``_approve`` at the start of the server, which an unusable label must not prevent."""
        try:
            self._approve(case, tag, who)
        except (UserError, OSError) as error:
            logger.warning("the approved label %s of case %s is not used: %s", tag, case, error)

    def _approve(self, case: str, tag: str, who: str) -> None:
        if tag == ORIGINAL:
            raise UserError(f"{KEY}: tag {tag!r} is a result of a model; save it as a version, and approve that")
        with self.datastore.transaction():
            labels = self._labels(case)
            if not _is_final(tag, labels):
                self._make_final(case, tag, labels, who)
            for other, info in labels.items():
                if other != tag and (review := LabelReview.of(info)) is not None and review.status:
                    self._write(case, other, review.without_decision())
        self.study.flags.remove(case)
        self.study.reviews.forget([case])

    def _make_final(self, case: str, tag: str, labels: Mapping[str, Mapping[str, Any]], who: str) -> None:
        """Save a version as the human label."""
        version, final = labels[tag], LabelReview.of(labels.get(FINAL, {}))
        author = version.get("user") or version.get("client_id") or who
        info: dict[str, Any] = {"user": author, "client_id": author, APPROVED_VERSION: tag}
        info |= {"label_info": version["label_info"]} if "label_info" in version else {}
        info |= final.without_decision().as_info() if final else {}
        self.datastore.save_label(case, self.datastore.get_label_uri(case, tag), FINAL, info)

    def _write(self, case: str, tag: str, review: LabelReview, on_page: bool = False) -> None:
        self.datastore.update_label_info(case, tag, review.as_info() | {ON_PAGE: on_page})

    def _labels(self, case: str) -> Mapping[str, Mapping[str, Any]]:
        return self.datastore.label_infos(case).get(case, {})


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
        if tag != FINAL and _is_approved(info) and _is_final(tag, labels):
            return tag
    return FINAL


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
            if review is None or not _TAG.fullmatch(tag):
                info.pop(KEY, None)
                continue
            replaced = review.status == APPROVED and not _is_final(tag, infos)
            if replaced or (review.status == FLAGGED and case not in flags):
                review = review.without_decision()
            info |= review.as_info()
        is_shown = any(info.get(KEY, {}).get("status") == FLAGGED for info in infos.values())
        if case in flags and FINAL in infos and not is_shown:
            tag = counting_tag(infos)
            infos[tag] |= _flagged(infos[tag], flags[case]).as_info()


def _reason(review: LabelReview) -> str:
    """Reason of a flag."""
    return review.comment[:MAX_REASON] if review.comment.strip() else NO_COMMENT


def _flagged(info: Mapping[str, Any], flag: Flag) -> LabelReview:
    level = (LabelReview.of(info) or LabelReview()).level
    return LabelReview(
        status=FLAGGED, level=level, approvedBy=flag.who[:200], comment=flag.reason, editTime=int(flag.time)
    )


def _is_approved(info: Mapping[str, Any]) -> bool:
    review = LabelReview.of(info)
    return review is not None and review.status == APPROVED


def _is_final(tag: str, labels: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a label is the human label of its case, or has the same content."""
    final = labels.get(FINAL, {})
    same = "sha256" in final and labels[tag].get("sha256") == final["sha256"]
    return tag == FINAL or final.get(APPROVED_VERSION) == tag or same
