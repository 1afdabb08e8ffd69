"""See ``samstudent.util.device``; SAM's adaptation in the core needs it too."""

from samstudent.util.device import autocast, half_precision, pick_device

__all__ = ["autocast", "half_precision", "pick_device"]
