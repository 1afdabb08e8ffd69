"""The student: a small MONAI network, as the task file describes it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.layers.factories import Act, Conv
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.student.encoder import EncoderUNet, encoder_of
from samstudent.student.objects import with_one_structure_each
from samstudent.task import ENCODER_REDUCTION, StudentSection, Task


class SteadyConv3d(torch.nn.Conv3d):
    """Conv3d with a workaround for bfloat16 on a CPU: maps of two slices are computed in float32.

    On a CPU with AVX-512, oneDNN (PyTorch 2.14) leaves part of the weights' gradient uninitialised for such maps:
    trainings were not repeatable, or ended in nan.
    """

    plain_class = torch.nn.Conv3d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.device.type != "cpu" or input.shape[2] != 2:
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())

    @classmethod
    def like(cls, convolution: torch.nn.Conv3d) -> SteadyConv3d:
        """The same convolution with the same weights."""
        shape: Any = {name: getattr(convolution, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        groups, bias = convolution.groups, convolution.bias is not None
        found = cls(convolution.in_channels, convolution.out_channels, groups=groups, bias=bias, **shape)
        found.load_state_dict(convolution.state_dict())
        return found


#: Factor of the prior's parameters, whose optimiser steps have the same size as those of other parameters.
PRIOR_SCALE = 32.0

#: Fewest pixels of images in the first steps of a training.
_FEWEST_PIXELS = 64 * 64

#: Smallest number of structures for a spatial prior, and for the output ``interior``.
MIN_STRUCTURES = 8

#: Activation of ``unet``: name and arguments for MONAI. The gradient of the slopes of PReLU, MONAI's default, takes a
#: quarter of a training step on a CPU, and the slopes hardly change from 0.25. With ReLU or a slope of 0.1 trainings of
#: 80 steps on drawn shapes did not always converge (two and one of three seeds failed).
_ACTIVATION = ("leakyrelu", {"negative_slope": 0.25, "inplace": True})


class SpatialPrior(torch.nn.Module):
    """A network with a spatial prior of each structure.

    Convolutions are translation-equivariant, so that they learn late which of 32 similar teeth one is. A quadratic of
    the coordinates, the log of a Gaussian, is added to each logit; it is trained with the network, and 0 or that of the
    labels (``set_to_places``) at first.
    Coordinates as input channels were harmful where structures may lie anywhere
    (docs/decisions/0017-spatial-prior.md).
    """

    def __init__(self, network: torch.nn.Module, outputs: int) -> None:
        super().__init__()
        self.network = network
        #: (outputs, 6): coefficients of 1, y, x, y * y, x * x, y * x, with y and x from -1 to 1 across the image.
        self.prior = torch.nn.Parameter(torch.zeros(outputs, 6))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return logits + self.logits_at(images.shape[2:], images.device)

    def set_to_places(self, masks: Iterable[NDArray[Any]], first: int) -> None:
        """Begin with the places of the structures in labels.

        Args:
            masks: of each case, bool (S, H, W).
            first: output of the first structure. The others, and structures that no case has, keep their prior.
        """
        # Number, sum and sum of products of the pixels' coordinates, for each structure.
        count: Any = 0
        total: Any = 0
        products: Any = 0
        for case in masks:
            places = [2 * np.argwhere(mask) / (np.array(mask.shape) - 1) - 1 for mask in case]
            count = count + np.array([len(found) for found in places])
            total = total + np.stack([found.sum(axis=0) for found in places])
            products = products + np.stack([found.T @ found for found in places])
        for index in np.flatnonzero(count):
            mean = total[index] / count[index]
            covariance = products[index] / count[index] - np.outer(mean, mean)
            # Wider: the labels are few, and training turns and shifts them.
            (yy, xy), (_, xx) = inverse = np.linalg.inv(2 * covariance + 0.01 * np.eye(2))
            y, x = inverse @ mean
            terms = torch.tensor([-0.5 * mean @ inverse @ mean, y, x, -0.5 * yy, -0.5 * xx, -xy])
            with torch.no_grad():
                self.prior[first + index] = terms / PRIOR_SCALE

    def logits_at(self, size: Sequence[int], device: torch.device) -> torch.Tensor:
        """Logits (outputs, *size) of the prior alone, float32."""
        with torch.autocast(device.type, enabled=False):  # half precision does not distinguish pixels
            sides = (torch.linspace(-1, 1, side, device=device) for side in size)
            y, x = torch.meshgrid(*sides, indexing="ij")
            terms = torch.stack([torch.ones_like(x), y, x, y * y, x * x, y * x])
            return torch.einsum("sk,kyx->syx", self.prior * PRIOR_SCALE, terms)


def output_channels(task: Task) -> int:
    """One channel for each structure where they may overlap (sigmoid), else background in front (softmax)."""
    return len(task.names) + (0 if task.overlap else 1)


def probabilities_of(logits: torch.Tensor, task: Task) -> torch.Tensor:
    """Probabilities float32 (B, S, *size) of a network's logits (B, outputs, *size)."""
    logits = logits.float()
    if task.overlap:
        return logits.sigmoid()
    if not has_interior(task):
        return logits.softmax(dim=1)[:, 1:]
    structures, interior = logits[:, :-1].softmax(dim=1)[:, 1:], logits[:, -1].sigmoid()
    return torch.stack([with_one_structure_each(*case) for case in zip(structures, interior, strict=True)])


def has_interior(task: Task) -> bool:
    """Whether the network has one more output, the last one: the interior of any structure (``student.objects``)."""
    return _has_prior(task) and not task.overlap


def channels_of(section: StudentSection) -> tuple[int, ...]:
    """Feature channels of each level of a network without a pretrained encoder."""
    return section.channels or (16, 32, 64, 128, 256)


def reduction_of(section: StudentSection) -> int:
    """Factor by which the deepest level of a network is smaller than the image; sides are multiples of it."""
    return ENCODER_REDUCTION if section.has_encoder else 2 ** (len(channels_of(section)) - 1)


def head_prefix(section: StudentSection) -> str:
    """Beginning of the names of the weights of the last layer, which has one map for each output. A spatial prior is
    not part of the names."""
    if section.has_encoder:
        return "unet.segmentation_head."
    return {"unet": "2.", "basicunet": "final_conv.", "segresnet": "conv_final.2."}[section.network]


def coarse_size(task: Task) -> tuple[int, ...] | None:
    """At most half the student's size, which takes a quarter of the time; None: 3D, or the size is small already
    (fewer than ``_FEWEST_PIXELS`` would be left, or no fewer than 0.6 of them)."""
    if task.dimension != 2:
        return None
    reduction = reduction_of(task.student)
    size = tuple(max(2 * reduction, side // 2 // reduction * reduction) for side in task.student.size)
    pixels = math.prod(size)
    return size if _FEWEST_PIXELS <= pixels < 0.6 * math.prod(task.student.size) else None


def build_network(task: Task) -> torch.nn.Module:
    """A network with random weights, drawn from torch's global generator (fork and seed it for repeatable ones).

    Input float32 (B, task.image.count, *task.student.size); output logits (B, ``output_channels``, *size), and one more
    map where the task ``has_interior``.
    ``student.channels`` are the channels of each level of ``unet`` and ``basicunet``; ``segresnet`` doubles
    ``channels[0]`` at each of as many levels.

    Raises:
        UserError: channels or size do not suit the network.
    """
    _check(task)
    network = _convolutions(task)
    for parent in list(network.modules()):  # MONAI's networks have no option for it
        for name, child in parent.named_children():
            if type(child) is torch.nn.Conv3d:
                setattr(parent, name, SteadyConv3d.like(child))
    return SpatialPrior(network, _outputs(task)) if _has_prior(task) else network


def _outputs(task: Task) -> int:
    return output_channels(task) + has_interior(task)


def _has_prior(task: Task) -> bool:
    if task.dimension != 2:  # the windows of a volume have no position in it
        return False
    return len(task.names) >= MIN_STRUCTURES


def _convolutions(task: Task) -> torch.nn.Module:
    section = task.student
    if section.has_encoder:
        return EncoderUNet(encoder_of(section), _outputs(task))
    channels = channels_of(section)
    dimension, inputs, outputs = task.dimension, task.image.count, _outputs(task)
    if section.network == "unet":
        # A separate head: MONAI's UNet normalises the last maps of each image. With one map for each structure, the
        # noise of an absent structure would be amplified.
        strides = (2,) * (len(channels) - 1)
        body = UNet(dimension, inputs, channels[0], channels, strides, num_res_units=2, act=_ACTIVATION)
        head = Conv[Conv.CONV, dimension](channels[0], outputs, kernel_size=1)
        return torch.nn.Sequential(body, Act[_ACTIVATION[0]](**_ACTIVATION[1]), head)
    if section.network == "basicunet":
        return BasicUNet(dimension, inputs, outputs, features=(*channels, channels[0]))
    return SegResNet(
        spatial_dims=dimension,
        in_channels=inputs,
        out_channels=outputs,
        init_filters=channels[0],
        blocks_down=(1, *(2 for _ in channels[1:])),
        blocks_up=tuple(1 for _ in channels[1:]),
    )


def _check(task: Task) -> None:
    section = task.student
    if section.has_encoder:
        return  # StudentSection
    channels = channels_of(section)
    levels = len(channels)
    if levels < 2 or any(c < 1 for c in channels):
        raise UserError(f"student.channels needs two or more positive numbers, not {list(channels)}")
    if section.network == "basicunet" and levels != 5:
        raise UserError(f"student.channels: basicunet has exactly 5 levels, not {levels}")
    if section.network == "segresnet" and channels[0] % 8:
        raise UserError(f"student.channels: segresnet needs a first number divisible by 8, not {channels[0]}")
    reduction = reduction_of(section)
    # Instance norm needs more than one pixel, so the deepest level has at least two along each axis.
    if any(side % reduction or side < 2 * reduction for side in section.size):
        raise UserError(
            f"student.size {list(section.size)}: with {levels} levels in student.channels every side must be a "
            f"multiple of {reduction}, at least {2 * reduction}"
        )
