"""What a study's datastore is told of its images and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samstudent.active_learning.readable import ImageCheck
from samstudent.imaging.file_names import IMAGES
from samstudent.server.datastore.label_folder import LabelFolder
from samstudent.task import Task

#: Called with image id, file, tag and info before a label is saved; raises UserError where it cannot be used.
LabelCheck = Callable[[str, Path, str, dict[str, Any]], None]


@dataclass(frozen=True)
class ImageRules:
    """Rules for the images of a study.

    Attributes:
        extensions: of files that are images, in order of preference.
        check: tells which images can be read; None: all count as readable.
    """

    extensions: Sequence[str] = IMAGES
    check: ImageCheck | None = None


@dataclass(frozen=True)
class LabelRules:
    """Rules for the labels of a study.

    Attributes:
        task: whose labels these are; None: what the values of label maps mean is not recorded.
        place: names of the folder of labels and of the list in the study folder.
        check: may refuse a label; None: none is refused.
        claim: called before a human's label is put in place, and when labels were found; may raise Conflict.
    """

    task: Task | None = None
    place: LabelFolder = field(default_factory=LabelFolder)
    check: LabelCheck | None = None
    claim: Callable[[], None] = lambda: None
