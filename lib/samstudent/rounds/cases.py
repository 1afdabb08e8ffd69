"""Cases that lie in files, as sources of a round; and how an image is read together with its human label."""

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
    """A case in files of the disk, as ``rounds.run_round`` takes it.

    Attributes:
        id: of the case.
        image: its file, or the folder of a DICOM series.
        label: file of its human label; None: there is none.
        names: ``names[v - 1]`` is the structure that value v of the label file means; None: the task's values, or the
            file names them.
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
    """The image and what its human label says.

    Args:
        image: its file, or the folder of a DICOM series.
        label: the label's file.
        task: the checked task.
        names: what the values of the label mean, as of ``FileCase``.

    Raises:
        UserError: one cannot be read; none of the task's structures is annotated.
    """
    found = read_image(image, task.dimension)
    masks = read_label(label, task, found.grid, names=names)
    if not masks.annotated.any():
        raise UserError(f"{label}: none of the task's structures is annotated in it")
    return found, masks
