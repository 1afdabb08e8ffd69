"""Case in files as a source of a round, and reading of an image with its human label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks, read_label
from samstudent.imaging.case import CaseImage, read_image
from samstudent.rounds.case_store import CaseContent
from samstudent.rounds.trained import content_of
from samstudent.task import Task
from samstudent.util.files import sha256_file


@dataclass(frozen=True)
class FileCase:
    """A case in files, a ``CaseSource`` for ``run_round``.

    Attributes:
        id: of the case.
        image: file of the image, or folder of a DICOM series.
        label: file of the human label; None: there is none.
        names: ``names[v - 1]`` is the structure of value v of the label file; None: the task's values, or the file
            names them.
    """

    id: str
    image: Path
    label: Path | None = None
    names: tuple[str, ...] | None = None

    def content(self) -> CaseContent:
        label = None if self.label is None else sha256_file(self.label)
        return CaseContent(content_of(self.image), label, self.names)

    def read(self, task: Task) -> tuple[CaseImage, LabelledMasks | None]:
        if self.label is None:
            return read_image(self.image, task.dimension), None
        return read_labelled(self.image, self.label, task, self.names)


def read_labelled(
    image: Path, label: Path, task: Task, names: tuple[str, ...] | None = None
) -> tuple[CaseImage, LabelledMasks]:
    """Image and human label of a case.

    Args:
        image: file of the image, or folder of a DICOM series.
        label: file of the label.
        task: the checked task.
        names: as of ``FileCase``.

    Raises:
        UserError: one of them cannot be read, or the label annotates none of the task's structures.
    """
    found = read_image(image, task.dimension)
    masks = read_label(label, task, found.grid, names=names)
    if not masks.annotated.any():
        raise UserError(f"{label}: none of the task's structures is annotated in it")
    return found, masks
