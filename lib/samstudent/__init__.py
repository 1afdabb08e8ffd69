"""samstudent: from a handful of annotated images to a segmentation model trained on all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samstudent.api import OpenStudy
    from samstudent.task import Task

__all__ = ["__version__", "open_study"]
__version__ = "0.1.0"


def open_study(
    studies: str | os.PathLike[str], task: str | os.PathLike[str] | Task, *, device: str | None = None
) -> OpenStudy:
    """A study and the models of its rounds, for predictions: ``open_study(...).predict(image)``.

    Args:
        studies: path of the study folder, or URL of a DICOMweb server.
        task: name of a shipped task, or path of a task file.
        device: "cpu", "cuda" or "cuda:<number>"; None: the best of this machine.

    Raises:
        NotFound: no such folder or task. UserError: the task file is not valid.
    """
    # Here, not above: torch and MONAI take seconds, and every command imports this package.
    from samstudent.api import OpenStudy

    return OpenStudy(studies, task, device)
