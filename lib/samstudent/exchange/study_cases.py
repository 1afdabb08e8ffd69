"""Cases of a study for an export: images, human labels, and pseudo labels on request."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from samstudent.imaging.annotations import LabelledMasks, read_label
from samstudent.imaging.case import CaseImage, read_image
from samstudent.imaging.label_tags import FINAL, PSEUDO
from samstudent.imaging.labels import read_ignore, read_masks
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.rounds.study import Study
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.task import Task

LabelKind = Literal["human", "pseudo_label", "none"]
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class StudyCase:
    """One case of a study.

    Attributes:
        id: case id.
        kind: kind of its label.
        split: ``test`` of split.csv, ``val`` for the hold-out, else ``train``.
        labelled_at: time at which the label was saved, seconds since 1970; 0: no label.
        datastore: datastore of the study.
    """

    id: str
    kind: LabelKind
    split: Split
    labelled_at: float
    datastore: StudyFolderDatastore = field(repr=False)

    def file(self) -> Path:
        """File of the image, or folder of a DICOM series; fetched from a PACS.

        Raises:
            UserError: it cannot be fetched.
        """
        return Path(self.datastore.get_image_uri(self.id))

    def read(self, task: Task) -> tuple[CaseImage, LabelledMasks | None]:
        """Image and label; None: no label.

        Raises:
            UserError, OSError: one of them cannot be read.
        """
        image = read_image(self.file(), task.dimension)
        if self.kind == "none":
            return image, None
        tag = FINAL if self.kind == "human" else PSEUDO
        path = Path(self.datastore.get_label_uri(self.id, tag))
        info = self.datastore.get_label_info(self.id, tag)
        if self.kind == "human":
            return image, read_label(path, task, image.grid, names=names_for_reading(path, info))
        masks, unknown = (read(path, task, image.grid) for read in (read_masks, read_ignore))
        for index, name in enumerate(task.names):
            if info.get("structures", {}).get(name, {}).get("status") == "rejected":
                unknown[index] = True
        return image, LabelledMasks(masks & ~unknown, unknown if unknown.any() else None)


def study_cases(study: Study, datastore: StudyFolderDatastore, *, pseudo: bool) -> list[StudyCase]:
    """Cases of a study, sorted by id, without those that are flagged as unusable.

    Args:
        study: the study.
        datastore: its datastore.
        pseudo: with the pseudo labels of cases without a human label; those that a reviewer rejected are left out.
    """
    # Flagged cases are excluded like test cases, but they are not test cases.
    infos = {case: labels for case, labels in datastore.label_infos().items() if case not in study.flags.all()}
    study.holdout.extend(datastore.list_images(), datastore.get_labeled_images())
    held, excluded, withheld = study.holdout.ids, study.holdout.excluded, study.reviews.withheld()
    found = []
    for case, labels in sorted(infos.items()):
        kind: LabelKind = "human" if FINAL in labels else "none"
        if kind == "none" and pseudo and PSEUDO in labels and not withheld(case, labels[PSEUDO]):
            kind = "pseudo_label"
        split: Split = "test" if case in excluded else "val" if case in held else "train"
        info = labels.get({"human": FINAL, "pseudo_label": PSEUDO}.get(kind, ""), {})
        found.append(StudyCase(case, kind, split, float(info.get("time", info.get("ts", 0))), datastore))
    return found
