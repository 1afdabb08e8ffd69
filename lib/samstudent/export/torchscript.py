"""Student as a TorchScript file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from samstudent.export.graph import BatchedImages, BatchedVolumes, ImageStudent, VolumeStudent
from samstudent.export.plain_network import PlainNetwork
from samstudent.task import Task
from samstudent.util.files import atomic_write


def write_torchscript(path: Path, network: PlainNetwork, task: Task) -> None:
    """Write ``BatchedImages`` or ``BatchedVolumes`` of a network, atomically."""
    example = torch.zeros(1, task.image.count, *task.student.size)
    with warnings.catch_warnings():
        # PyTorch recommends other formats, and warns of conditions on the size of the grid, which is fixed.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, example, check_trace=False)
        if task.dimension == 2:
            scripted = torch.jit.script(BatchedImages(ImageStudent(traced, task), task).eval())
        else:
            scripted = torch.jit.script(BatchedVolumes(VolumeStudent(traced, task), task).eval())
        buffer = io.BytesIO()
        torch.jit.save(scripted, buffer)
    atomic_write(path, buffer.getvalue())
