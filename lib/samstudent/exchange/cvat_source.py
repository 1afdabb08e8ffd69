"""CVAT's "CVAT for images 1.1" as a source of an import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samstudent.exchange.image_search import ImageSearch
from samstudent.exchange.source import (
    Source,
    SourceCase,
    SourceLabel,
    check_size,
    is_test_file,
    labelled_masks,
    unique_cases,
)
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.cvat import CvatImage, read_cvat
from samstudent.imaging.grid import Grid
from samstudent.task import Task

FORMAT = "cvat"


@dataclass(frozen=True)
class CvatLabel:
    """Shapes of one image.

    Attributes:
        image: the image's annotation.
    """

    image: CvatImage

    def names(self) -> dict[str, int]:
        return dict(self.image.names())

    def read(self, task: Task, grid: Grid) -> LabelledMasks:
        """Masks of the task's structures, unions of their shapes. Raises UserError: the image has another size."""
        check_size(self.image.size, grid, f"{self.image.file}: image {self.image.name!r}")
        return labelled_masks(self.image.masks(task.names), self.image.names(), task)


def read_cvat_source(
    files: Sequence[Path], images: Path | None, attribute: str | None, *, empty_is_absent: bool = False
) -> Source:
    """Read annotation files of CVAT.

    Args:
        files: XML files; an image may be listed in several if only one of them annotates it. Those with ``test`` in
            their name have test cases.
        images: folder of the images; None: searched beside the files.
        attribute: attribute of a shape with the name of its structure; None: the shape's label is the name.
        empty_is_absent: an image without shapes shows no structure; False: it is not annotated.

    Raises:
        UserError, OSError: as ``imaging.cvat.read_cvat``.
    """
    faults: dict[str, str] = {}
    annotations = read_cvat(files, attribute, faults)
    search = ImageSearch(images, files)
    cases = [SourceCase(id, problem=fault) for id, fault in faults.items()]
    for id, image in annotations.items():
        if id not in faults:
            label: SourceLabel | None = CvatLabel(image) if image.shapes or empty_is_absent else None
            found = search.find(image.name)
            is_test = label is not None and is_test_file(image.file)
            cases.append(SourceCase(id, () if found is None else (found,), label, is_test, image.name))
    return Source(FORMAT, tuple(files), unique_cases(cases), overlap=True)
