"""Registry of SAM backends: from the task file's section ``sam`` to a model."""

from __future__ import annotations

from samstudent.sam import lite_medsam
from samstudent.sam.model import SamModel
from samstudent.task import SamSection


def load_backend(section: SamSection, device: str | None = None) -> SamModel:
    """The SAM that a task file names. Its file is checked now, the model is built at first use (or by ``load``).

    Args:
        section: the task file's ``sam``.
        device: a torch device; None: cuda where there is one, else cpu.

    Raises:
        NotFound: no such checkpoint, or the package that brings the embedded weights is missing.
        UserError: the file is not what its digest says, or (at first use) holds another model's weights.
    """
    if section.backend == "lite_medsam":
        return lite_medsam.load(device)
    # Late, for a quick start of the command line: segment-anything imports torchvision (1.4 s of CPU).
    from samstudent.sam import segment_anything

    return segment_anything.load(section, device)
