"""Writer of a folder for ``samstudent experiment`` (docs/how-to/experiment.md, "Folder")."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.exchange.export_format import copy_image
from samstudent.exchange.study_cases import StudyCase
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.imaging.label_writing import label_map, write_masks, write_values
from samstudent.imaging.structure_names import IGNORE
from samstudent.task import Task
from samstudent.util.files import atomic_write

#: Largest number of structures as bits of one pixel; more are written as segments.
_MOST_BITS = 32


class ExperimentExport:
    """``images/``, ``labels/`` or ``labels_overlap/``, ``labels.json``, ``split.csv`` and ``task.yaml``.

    Images are copied. Labels have the task's values, or where the task allows overlap a bit for each structure; labels
    with unknown structures are .seg.nrrd. Train cases are in the order in which they were labelled.

    Args:
        folder: folder of the export.
        task: the task.
    """

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder, self.task = folder, task
        self._labels = folder / ("labels_overlap" if task.overlap else "labels")
        self._cases: list[StudyCase] = []

    def add(self, case: StudyCase, image: CaseImage, label: LabelledMasks | None) -> None:
        copy_image(image, self.folder / "images" / case.id)
        if label is not None:
            self._write_label(case.id, image, label)
        self._cases.append(case)

    def finish(self) -> list[str]:
        names = {str(value): name for name, value in self.task.structures.items()}
        atomic_write(self.folder / "labels.json", json.dumps(names, ensure_ascii=False, indent=1) + "\n")
        # JSON is YAML.
        task = json.dumps(self.task.model_dump(mode="json"), ensure_ascii=False, indent=1)
        atomic_write(self.folder / "task.yaml", task + "\n")
        atomic_write(self.folder / "split.csv", self._split())
        parts = {case.split for case in self._cases if case.kind != "none"}
        remarks = [] if "train" in parts else ["no train case has a label, which an experiment needs"]
        option = "" if "test" in parts else " --split val"
        if not parts & {"test", "val"}:
            remarks.append("no labelled case is held out; write test for some cases in split.csv")
            option = ""
        return [*remarks, f"next: samstudent experiment {self.folder} --task {self.folder / 'task.yaml'}{option}"]

    def _split(self) -> str:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["id", "split", "train_order"])
        train = [case for case in self._cases if case.split == "train" and case.kind != "none"]
        # Pseudo labels last: the first cases are the labelled pool of an experiment.
        train.sort(key=lambda case: (case.kind != "human", case.labelled_at, case.id))
        order = {case.id: number for number, case in enumerate(train, 1)}
        rows.writerows([case.id, case.split, order.get(case.id, "")] for case in self._cases)
        return text.getvalue()

    def _write_label(self, case: str, image: CaseImage, label: LabelledMasks) -> None:
        flat = image.grid.dimension == 2
        if label.unknown is not None or (self.task.overlap and len(self.task.names) > _MOST_BITS):
            marked = None if label.unknown is None else {IGNORE: label.unknown}
            write_masks(self._labels / f"{case}.seg.nrrd", label.masks, self.task, image.grid, marked=marked)
        elif self.task.overlap:
            write_values(self._labels / f"{case}{'.tif' if flat else '.nii.gz'}", _bits(label.masks), image.grid)
        else:
            write_values(self._labels / f"{case}{'.png' if flat else '.nii.gz'}", label_map(label.masks), image.grid)


def _bits(masks: NDArray[np.bool_]) -> NDArray[Any]:
    """Bit v - 1 of a pixel is structure v: (*spatial), in the smallest unsigned type."""
    kind = next(kind for kind in (np.uint8, np.uint16, np.uint32) if np.iinfo(kind).bits >= len(masks))
    values: NDArray[Any] = np.zeros(masks.shape[1:], dtype=kind)
    for bit, mask in enumerate(masks):
        values[mask] |= kind(1 << bit)
    return values
