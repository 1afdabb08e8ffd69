"""Registry of SAM backends by the task file's section ``sam``."""

from __future__ import annotations

from samstudent.sam import lite_medsam
from samstudent.sam.model import SamModel
from samstudent.task import SamSection


def load_backend(section: SamSection, device: str | None = None) -> SamModel:
    """The SAM of a task. Its file is checked now, the model is built at first use (or by ``load``).

    Args:
        section: the task file's ``sam``.
        device: a torch device; None: cuda where there is one, else cpu.

    Raises:
        NotFound: no such checkpoint, or the package with the embedded weights is missing.
        UserError: the file does not match its digest, or (at first use) has another model's weights.
    """
    if section.backend == "lite_medsam":
        return lite_medsam.load(device)
    # A late import for a quick start of the command line: segment-anything imports torchvision (1.4 s of CPU).
    from samstudent.sam import segment_anything

    return segment_anything.load(section, device)
