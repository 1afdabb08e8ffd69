"""A round on a study: its cases come from the host's datastore, its records go to the ledger."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from samstudent.errors import NotFound
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, read_image
from samstudent.imaging.label_tags import FINAL, PSEUDO, PSEUDO_RAW
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.structure_names import IGNORE, REJECTED
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.pseudolabels.case_labeller import OnCase
from samstudent.pseudolabels.on_image import on_image
from samstudent.pseudolabels.policy import ADAPTED_FILE, LabelingPolicy
from samstudent.pseudolabels.provenance import Provenance, is_current
from samstudent.rounds.case_store import CaseContent
from samstudent.rounds.cases import read_labelled
from samstudent.rounds.pseudo_store import Kind
from samstudent.rounds.round_options import Champion, RoundCases
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.study import Study
from samstudent.rounds.trained import ImageContents, content_of, images_of, trained_of, under_ids
from samstudent.sam.cached_sam import CachedSam
from samstudent.server.tasks.human_checks import is_checked, record_check
from samstudent.student.training import TrainedStudent
from samstudent.task import Task
from samstudent.util.files import sha256_file

logger = logging.getLogger(__name__)

#: Tags of the labels that are generated together: a refined label, and that of the student alone.
_TAGS: dict[Kind, tuple[str, ...]] = {"refined": (PSEUDO, PSEUDO_RAW), "raw": (PSEUDO_RAW,)}


@dataclass
class DatastoreCase:
    """Case of the datastore as source of a round; its files are fetched on demand.

    Attributes:
        id: case id.
        datastore: datastore of the study.
        contents: digests of images that were read before.
        labelled: whether to read the human label.
    """

    id: str
    datastore: Any = field(repr=False)
    contents: ImageContents | None = field(repr=False)
    labelled: bool
    _files: tuple[Path, Path | None, CaseContent] | None = field(default=None, repr=False)

    def content(self) -> CaseContent:
        return self._found()[2]

    def read(self, task: Task) -> tuple[CaseImage, LabelledMasks | None]:
        image, label, content = self._found()
        if label is None:
            return read_image(image, task.dimension), None
        return read_labelled(image, label, task, content.names)

    def __getstate__(self) -> dict[str, Any]:
        """State for other processes: paths of the files in place of the datastore."""
        self._found()
        return self.__dict__ | {"datastore": None, "contents": None}

    def _found(self) -> tuple[Path, Path | None, CaseContent]:
        if self._files is None:
            label, names, digest, checked = None, None, None, True
            if self.labelled:
                label_id = self.datastore.get_labels_by_image_id(self.id).get(FINAL)
                if label_id is None:
                    raise NotFound("its label was removed")
                label = Path(self.datastore.get_label_uri(label_id, FINAL))
                info = self.datastore.get_label_info(label_id, FINAL)
                names, checked = names_for_reading(label, info), is_checked(info)
                digest = sha256_file(label)
            image = Path(self.datastore.get_image_uri(self.id))
            known = None if self.contents is None else self.contents.of(image)
            self._files = image, label, CaseContent(known or content_of(image), digest, names, checked)
        return self._files


def sources(study: Study, datastore: Any, ids: Iterable[str], *, labelled: bool) -> list[DatastoreCase]:
    """Cases of a datastore as sources of a round, with their human labels or without."""
    return [DatastoreCase(id, datastore, study.contents, labelled) for id in sorted(ids)]


class StudyRound(RoundStore):
    """Folders of a round of a study; pseudo labels are also saved in the datastore, for review.

    Args:
        study: study.
        datastore: datastore of the study.
        round_id: id of the round in the ledger; None: pseudo labels without a round.
        on_case: called with each new refined pseudo label.
    """

    def __init__(self, study: Study, datastore: Any, round_id: str | None = None, on_case: OnCase | None = None):
        ledger = study.ledger
        folder = study.folder if round_id is None else ledger.folder_of(round_id)
        earlier = [study.policy_folder(record.id) for record in reversed(ledger.rounds()) if record.id != round_id]
        super().__init__(folder, study.task, study.folder, earlier_policies=earlier)
        self.study, self.datastore, self.round_id, self.on_case = study, datastore, round_id, on_case
        self._withheld = study.reviews.withheld()

    def plain_sam(self) -> CachedSam:
        return CachedSam(self.study.plain_sam(), self.study.embeddings)

    def active_sam(self) -> CachedSam:
        return CachedSam(self.study.sam(), self.study.embeddings)

    def round_cases(self, train_ids: Sequence[str], held_ids: Sequence[str]) -> RoundCases:
        """The cases of this round: labelled, unlabelled, held out; and the champion."""
        study = self.study
        # Fixed at the start: cases that are labelled during the round are used in the next one.
        unlabelled = study.holdout.trainable(set(self.datastore.list_images()) - set(self._human_ids()))
        cases = partial(sources, study, self.datastore)
        labelled, held = cases(train_ids, labelled=True), cases(held_ids, labelled=True)
        return RoundCases(labelled, cases(unlabelled, labelled=False), held, self._champion(labelled))

    def drop_replaced(self, ids: Iterable[str]) -> set[str]:
        """Remove the pseudo labels of cases that have a human label, are held out, or excluded.

        Returns:
            Ids of these cases.
        """
        holdout = self.study.holdout
        without = {*self._human_ids(), *holdout.ids, *holdout.excluded} & set(ids)
        for case_id in without:
            record_check(self.study, self.datastore, case_id)
            self.drop_labels(case_id, "refined")
        return without

    def _human_ids(self) -> list[str]:
        ids: list[str] = self.datastore.get_labeled_images()
        return ids

    def _champion(self, labelled: Sequence[DatastoreCase]) -> Champion | None:
        ledger = self.study.ledger
        # Read once: another round may be promoted at any time.
        path = ledger.champion_path()
        if path is None:
            return None
        name = path.parent.name
        scores = (ledger.read_json(name, "scores") or {}).get("folds")
        if scores:
            ours = {}
            for case in labelled:
                try:
                    ours[case.id] = case.content().image
                except Exception:  # reported where the case is prepared
                    logger.debug("case %s has no content", case.id, exc_info=True)
            scores = under_ids(scores, images_of(ledger.read_json(name, "inputs") or {}), ours)
        load = partial(self.study.policy_of, name)
        return Champion(name, path, trained_of(ledger, name), scores, ledger.get(name).accumulated_loss, load)

    # ---- events of the round ----

    def policy_fitted(self, policy: LabelingPolicy, labels: Mapping[str, Any]) -> LabelingPolicy:
        """Store the adapted SAM in the study, and the figures of the lower bound in the round's record.

        The result is without the adapted SAM if a user has selected the plain one.
        """
        if self.round_id is not None and (quality := policy.record["quality"]) is not None:
            self.study.ledger.update(self.round_id, dice_bound=quality["bound"])
        if found := policy.record["adaptation"]:
            id = self.study.store_adaptation(found, self.policy_folder / ADAPTED_FILE, labels, self.round_id)
            logger.info("SAM %s: %s", id, found["reason"])
        return self.study.as_active(policy)

    def last_made_with(self) -> Provenance | None:
        ledger = self.study.ledger
        earlier = [ledger.read_json(record.id, "inputs") for record in ledger.rounds() if record.id != self.round_id]
        made = [inputs.get("pseudo_labels_made_with") for inputs in earlier if inputs]
        # Pseudo labels of a raw round have another tag.
        known = [Provenance(**found) for found in made if found and found["sam_backend"]]
        return known[-1] if known else None

    def has_label(self, case_id: str, kind: Kind, made_with: Provenance) -> bool:
        labels = self.datastore.get_labels_by_image_id(case_id)
        tag = _TAGS[kind][0]
        if FINAL in labels or not set(_TAGS[kind]) <= set(labels):
            return False
        return is_current(self.datastore.get_label_info(labels[tag], tag), made_with)

    def drop_labels(self, case_id: str, kind: Kind) -> None:
        labels = self.datastore.get_labels_by_image_id(case_id)
        for tag in _TAGS[kind]:
            if tag in labels:
                self.datastore.remove_label(labels[tag], tag)

    def label_made(self, case_id: str, image: CaseImage, label: PseudoLabel, raw_info: Mapping[str, Any]) -> None:
        drawn = on_image(label, image, self.task.overlap)
        marked = {IGNORE: drawn.ignore, REJECTED: drawn.rejected}
        self._save(case_id, PSEUDO, image, (drawn.masks, label.info()), marked)
        self._save(case_id, PSEUDO_RAW, image, (drawn.raw, raw_info))
        if self.on_case is not None:
            self.on_case(case_id, image, label)

    def raw_label_made(self, case_id: str, image: CaseImage, masks: NDArray[Any], info: Mapping[str, Any]) -> None:
        self._save(case_id, PSEUDO_RAW, image, (masks, info))

    def may_train(self, case_id: str, info: Mapping[str, Any]) -> bool:
        return not self._withheld(case_id, info)

    def training_set(self, labels: Sequence[str], pseudo: Mapping[str, Any], left_out: Mapping[str, str]) -> None:
        if self.round_id is not None:
            changes = {"labels_used": list(labels), "pseudo_used": dict(pseudo), "unreadable": dict(left_out)}
            self.study.ledger.update(self.round_id, **changes)

    def student_trained(self, training: TrainedStudent) -> None:
        if self.round_id is not None:
            content = training.as_json()
            self.study.ledger.update(self.round_id, model_digest=content.pop("version"), training=content)

    def _save(
        self,
        case_id: str,
        tag: str,
        image: CaseImage,
        label: tuple[NDArray[Any], Mapping[str, Any]],
        marked: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Save masks bool (S, *spatial) with metadata under a tag; ``marked`` as in ``write_masks``."""
        masks, info = label
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.seg.nrrd"
            write_masks(path, masks, self.task, image.grid, marked=marked)
            self.datastore.save_label(case_id, str(path), tag, dict(info))
