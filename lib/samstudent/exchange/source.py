"""Data of another tool as plain cases: what each format's reader returns, and what the import takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.grid import Grid
from samstudent.imaging.labels import means_structure
from samstudent.imaging.structure_names import IGNORE, find_structure, marked_structure
from samstudent.task import Task


class SourceLabel(Protocol):
    """Label of one case as another tool has written it."""

    def names(self) -> Mapping[str, int]:
        """Names of the structures -> number of their shapes; 1 for a value of a label map."""

    def read(self, task: Task, grid: Grid) -> LabelledMasks:
        """Masks of the task's structures on the image's grid; they may overlap.

        Raises:
            UserError, OSError: the label cannot be read, or does not fit image or task.
        """


@dataclass(frozen=True)
class SourceCase:
    """One case of another tool's data.

    Attributes:
        id: case id.
        images: file of the image, or one file for each channel; (): there is none, the study must have it.
        label: None: not labelled.
        is_test: the case belongs to a test set, and must not train.
        image_name: name of the image in the source, for messages about an image that is missing.
        problem: reason why the case cannot be taken; None: it can.
    """

    id: str
    images: tuple[Path, ...] = ()
    label: SourceLabel | None = None
    is_test: bool = False
    image_name: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Source:
    """Data of another tool.

    Attributes:
        format: name of the format, as in ``--format``.
        files: the files or folders of the data, for the report.
        cases: its cases.
        overlap: whether the format lets structures share pixels.
        names: further names of structures, which need not occur in a label (of a table of values).
        remarks: sentences for the user about parts that are not taken.
    """

    format: str
    files: tuple[Path, ...]
    cases: tuple[SourceCase, ...]
    overlap: bool
    names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    def all_names(self) -> dict[str, int]:
        """Names of the structures in the whole source -> number of labels with the name."""
        counts = dict.fromkeys(self.names, 0)
        for case in self.cases:
            for name in case.label.names() if case.label is not None else ():
                counts[name] = counts.get(name, 0) + 1
        return counts


def without_labels(source: Source, cases: Iterable[str], remark: str) -> Source:
    """A source without the labels of some cases, with a remark where this leaves any out."""
    left_out = {case.id for case in source.cases if case.label is not None} & set(cases)
    if not left_out:
        return source
    kept = tuple(replace(case, label=None) if case.id in left_out else case for case in source.cases)
    return replace(source, cases=kept, remarks=(*source.remarks, remark.format(len(left_out))))


def is_test_file(path: Path) -> bool:
    """Whether the name of an annotation file states that its cases are test cases: ``instances_test2017.json``."""
    return re.search(r"(?<![a-z])test(?![a-z])", path.stem.lower()) is not None


def other_names(names: Iterable[str], task: Task) -> list[str]:
    """Names that neither are nor mark a structure of the task, sorted."""
    return sorted(name for name in names if not means_structure(name, task))


def labelled_masks(
    masks: NDArray[np.bool_], mentioned: Iterable[str], task: Task, unknown: NDArray[np.bool_] | None = None
) -> LabelledMasks:
    """Masks of a label with its unknown structures: those that it does not mention where the task says so.

    Args:
        masks: bool (S, *spatial).
        mentioned: names in the label; ``ignore:NAME`` marks a structure that is not annotated.
        task: the structures, and the meaning of those that a label does not mention.
        unknown: bool (S, *spatial), regions in which a structure is unknown; None: there are none.
    """
    mentioned = list(mentioned)
    drawn = {find_structure(name, task.names) for name in mentioned}
    marked = {marked_structure(name, IGNORE, task.names) for name in mentioned}
    regions = np.zeros_like(masks) if unknown is None else unknown.copy()
    for index, name in enumerate(task.names):
        is_open = name in marked and not regions[index].any()
        is_unmentioned = name not in drawn | marked and task.unmentioned_of(name) == "unknown"
        if is_open or is_unmentioned:
            regions[index] = True
    return LabelledMasks(masks & ~regions, regions) if regions.any() else LabelledMasks(masks)


def check_size(size: tuple[int, int], grid: Grid, place: str) -> None:
    """Raises UserError if an annotation of a 2D image is of another size (y, x) than the image."""
    if grid.spatial_shape != size:
        shape = " x ".join(map(str, grid.spatial_shape[::-1]))
        turned = " (shown upright by its orientation tag)" if grid.orientation != 1 else ""
        raise UserError(
            f"{place}: annotated with {size[1]} x {size[0]} pixels (width x height), but the image has {shape}{turned}"
        )


def unique_cases(cases: Sequence[SourceCase]) -> tuple[SourceCase, ...]:
    """Cases by id; several cases with one id become one that cannot be taken, unless only one of them has a label."""
    by_id: dict[str, list[SourceCase]] = {}
    for case in cases:
        by_id.setdefault(case.id, []).append(case)
    found = []
    for id, same in by_id.items():
        labelled = [case for case in same if case.label is not None or case.problem]
        if len(labelled) > 1:
            names = ", ".join(sorted({case.image_name or id for case in same}))
            found.append(SourceCase(id, problem=f"annotated more than once in the source, as {names}; leave one"))
        else:
            found.append((labelled or same)[0])
    return tuple(found)
