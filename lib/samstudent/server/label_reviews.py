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
from collections.abc import Mapping
from typing import Any

from samstudent.errors import UserError
from samstudent.imaging.label_tags import FINAL, ORIGINAL
from samstudent.rounds.flags import MAX_REASON, Flag
from samstudent.rounds.study import Study
from samstudent.server.auth.current_user import ANONYMOUS
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.review_metadata import (
    APPROVED,
    APPROVED_VERSION,
    FLAGGED,
    KEY,
    ON_PAGE,
    TAG,
    LabelReview,
    counting_tag,
    flagged_review,
    is_final,
)

logger = logging.getLogger(__name__)

#: Reason of a flag without a comment.
NO_COMMENT = "flagged in 3D Slicer, without a comment"


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
            self._write(case, tag, flagged_review(labels[tag], flag), on_page=True)
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
            found = {tag: LabelReview.of(info) for tag, info in labels.items() if TAG.fullmatch(tag)}
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
            if not is_final(tag, labels):
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


def _reason(review: LabelReview) -> str:
    """Reason of a flag."""
    return review.comment[:MAX_REASON] if review.comment.strip() else NO_COMMENT
