"""The student: a small MONAI network, as the task file describes it."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.layers.factories import Act, Conv
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet

from samstudent.errors import UserError
from samstudent.task import Task


class SteadyConv3d(torch.nn.Conv3d):
    """In bfloat16 on a CPU with AVX-512, oneDNN (PyTorch 2.14) leaves part of the weights' gradient uninitialised where
    the maps are two slices deep: trainings differed from run to run, or ended in nan. There it works in float32."""

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


#: The prior's weights are so many times what is learnt, since an optimizer's steps are as long for them as for others'.
PRIOR_SCALE = 32.0

#: From so many structures on a prior distinguishes them.
MANY = 8

#: Activation of ``unet``: name and arguments for MONAI. PReLU, MONAI's default, takes a quarter of a training step on a
#: CPU for the gradient of its slopes, which begin at 0.25 and hardly move. With ReLU or a slope of 0.1 trainings
#: of 80 steps on drawn shapes did not always converge (two and one of three seeds failed).
_ACTIVATION = ("leakyrelu", {"negative_slope": 0.25, "inplace": True})


class Placed(torch.nn.Module):
    """A network with a prior: what a pixel's place in the image alone says of each structure.

    Convolutions answer alike wherever a thing lies, so which of 32 teeth one is they learn late. To each logit comes a
    quadratic of the coordinates, the log of a Gaussian, learnt with the rest and zero at first. As input channels the
    coordinates did harm where structures may lie anywhere (docs/decisions/0017-spatial-prior.md).
    """

    def __init__(self, network: torch.nn.Module, outputs: int) -> None:
        super().__init__()
        self.network = network
        #: By output: of 1, y, x, y * y, x * x, y * x, with y and x from -1 to 1 across the image.
        self.prior = torch.nn.Parameter(torch.zeros(outputs, 6))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        with torch.autocast(images.device.type, enabled=False):  # half precision does not tell pixels apart
            sides = (torch.linspace(-1, 1, side, device=images.device) for side in images.shape[2:])
            y, x = torch.meshgrid(*sides, indexing="ij")
            terms = torch.stack([torch.ones_like(x), y, x, y * y, x * x, y * x])
            return logits + torch.einsum("sk,kyx->syx", self.prior * PRIOR_SCALE, terms)


def output_channels(task: Task) -> int:
    """One channel for each structure where they may overlap (sigmoid), else background in front (softmax)."""
    return len(task.names) + (0 if task.overlap else 1)


def build_network(task: Task) -> torch.nn.Module:
    """A network with fresh weights, drawn from torch's global generator (fork and seed it for repeatable ones).

    Input float32 (B, task.image.channels, *task.student.size); output logits (B, ``output_channels``, *size).
    ``unet`` and ``basicunet`` take ``student.channels`` level by level; ``segresnet`` doubles ``channels[0]`` at each
    of as many levels.

    Raises:
        UserError: channels or size do not suit the network.
    """
    _check(task)
    network = _convolutions(task)
    for parent in list(network.modules()):  # MONAI's networks cannot be asked for another kind
        for name, child in parent.named_children():
            if type(child) is torch.nn.Conv3d:
                setattr(parent, name, SteadyConv3d.like(child))
    return Placed(network, output_channels(task)) if _has_prior(task) else network


def _has_prior(task: Task) -> bool:
    if task.dimension != 2:  # a volume is seen through windows, which do not know where in it they lie
        return False
    return len(task.names) >= MANY


def _convolutions(task: Task) -> torch.nn.Module:
    section = task.student
    channels = section.channels
    dimension, inputs, outputs = task.dimension, task.image.channels, output_channels(task)
    if section.network == "unet":
        # A head of its own: MONAI's UNet normalises each image's last maps, of which there would be one a structure, so
        # that a structure which is not in the image would be blown up from noise.
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
    levels = len(section.channels)
    if levels < 2 or any(c < 1 for c in section.channels):
        raise UserError(f"student.channels needs two or more positive numbers, not {list(section.channels)}")
    if section.network == "basicunet" and levels != 5:
        raise UserError(f"student.channels: basicunet has exactly 5 levels, not {levels}")
    if section.network == "segresnet" and section.channels[0] % 8:
        raise UserError(f"student.channels: segresnet needs a first number divisible by 8, not {section.channels[0]}")
    reduction = 2 ** (levels - 1)
    # Instance norm cannot normalise a single pixel, so the deepest level keeps at least two along each axis.
    if any(side % reduction or side < 2 * reduction for side in section.size):
        raise UserError(
            f"student.size {list(section.size)}: with {levels} levels in student.channels every side must be a "
            f"multiple of {reduction}, at least {2 * reduction}"
        )
