"""Network of a student for other runtimes: standard layers in float32, on a grid of fixed size, with probabilities as
output."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from samstudent.student.network import SpatialPrior, probabilities_of
from samstudent.student.predict import Student
from samstudent.task import Task


class PlainNetwork(torch.nn.Module):
    """Images float32 (B, C, *size) on the student's grid to probabilities float32 (B, S, *size).

    Args:
        network: logits (B, outputs, *size) of images.
        offset: (outputs, *size), added to the logits.
        task: of the student.
    """

    offset: Tensor

    def __init__(self, network: torch.nn.Module, offset: Tensor, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task
        self.register_buffer("offset", offset)

    def forward(self, images: Tensor) -> Tensor:
        return probabilities_of(self.network(images) + self.offset, self.task)


def plain_network(student: Student) -> PlainNetwork:
    """Copy of a student's network on the CPU.

    The layers that circumvent slow or wrong bfloat16 on a CPU become those of PyTorch. The spatial prior, which depends
    on the position only, becomes a constant.
    """
    task = student.task
    network = copy.deepcopy(student.network).cpu().eval()
    for layer in network.modules():
        if (plain := getattr(layer, "plain_class", None)) is not None:
            layer.__class__ = plain
    offset = torch.zeros(())
    if isinstance(network, SpatialPrior):
        with torch.inference_mode():
            offset = network.logits_at(task.student.size, torch.device("cpu")).clone()
        network = network.network
    return PlainNetwork(network, offset, task).eval().requires_grad_(False)
