"""The embedding head: a few convolutions on SAM's image embeddings that segment without prompts.

SAM's decoder requires prompts, and those of a student trained on ten cases are inaccurate. The encoder was trained on
many more images than a hospital has labels. A few convolutions on its cached embeddings learn the positions of the
structures in about a minute. Embedding heads are members of the teacher's ensemble in a round; they are not served,
because every image would need SAM's encoder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from samstudent.imaging.case import CaseImage, for_sam
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.embedding import Embedding
from samstudent.student.network import output_channels
from samstudent.student.predict import load_weights
from samstudent.task import Task
from samstudent.util.device import pick_device

#: Channels of SAM's image embedding.
EMBEDDING_CHANNELS = 256


class HeadNetwork(nn.Module):
    """Embeddings float32 (B, 256, h, w) to logits (B, channels, 4h, 4w)."""

    def __init__(self, outputs: int, width: int = 64) -> None:
        super().__init__()

        def block(inputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, width, kernel, stride, kernel // 2)
            return nn.Sequential(convolution, nn.InstanceNorm2d(width, affine=True), nn.GELU())

        # Dropout of channels: the prediction must not depend on single features of the few cases.
        self.reduce = nn.Sequential(nn.Dropout2d(0.2), block(EMBEDDING_CHANNELS, kernel=1))
        # Similar structures (teeth) differ only by their neighbours.
        self.context = nn.Sequential(block(width, stride=2), block(width, stride=2), block(width))
        self.mix = nn.Sequential(block(2 * width), block(width))
        self.head = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1), nn.GELU(), nn.Conv2d(width // 2, outputs, 1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        reduced = self.reduce(features)
        context = _scale(self.context(reduced), reduced.shape[-2:])
        mixed = self.mix(torch.cat([reduced, context], dim=1))
        height, width = mixed.shape[-2:]
        logits = self.head(_scale(mixed, (2 * height, 2 * width)))
        return _scale(logits, (4 * height, 4 * width))


def slice_axis_of(task: Task) -> int:
    """Axis along which volumes are cut into slices: the recipe's; z where it is ``auto``."""
    return max(0, "zyx".find(task.recipe.axis))


class EmbeddingHead:
    """A trained embedding head: a ``Predictor`` like the student."""

    def __init__(self, network: nn.Module, task: Task, version: str, sam: CachedSam, device: torch.device) -> None:
        self.network = network.eval().to(device)
        self.task, self.version, self.sam, self.device = task, version, sam, device

    @classmethod
    def load(cls, path: Path, task: Task, sam: CachedSam, device: str | None = None) -> EmbeddingHead:
        """Read a file that ``train_head`` wrote. Raises as ``Student.load``."""
        network = HeadNetwork(output_channels(task))
        version = load_weights(network, path, task)
        return cls(network, task, version, sam, pick_device(device))

    def predict(self, image: CaseImage, size: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Probabilities float32 (S, *spatial) in [0, 1] on the image's canonical grid.

        Args:
            image: of the case.
            size: (y, x) of another grid that covers a 2D image; None: the image's own.
        """
        pixels = for_sam(image, self.task.image)
        if self.task.dimension == 2:
            embedding = self.sam.embed(pixels)
            return self.predict_embedding(
                embedding if size is None else replace(embedding, image_size=(size[0], size[1]))
            )
        axis = slice_axis_of(self.task)
        parts = [self.predict_embedding(self.sam.embed(part)) for part in np.moveaxis(pixels, axis, 0)]
        return np.stack(parts, axis=1 + axis)

    def predict_embedding(self, embedding: Embedding) -> NDArray[Any]:
        """Probabilities float32 (S, y, x) of one embedded image, at ``embedding.image_size``."""
        with torch.inference_mode():
            features = torch.from_numpy(embedding.features[:, :EMBEDDING_CHANNELS])
            logits = self.network(features.to(self.device)).float()
            # The side of the frame is four times that of the embedding; the model's own side may differ.
            height, width = filled_size(embedding)
            probabilities = logits.sigmoid() if self.task.overlap else logits.softmax(dim=1)[:, 1:]
            # One structure at a time: a radiograph has millions of pixels, a jaw 32 teeth.
            parts = [_scale(p[:, None, :height, :width], embedding.image_size) for p in probabilities.unbind(dim=1)]
            return torch.cat(parts, dim=1)[0].cpu().numpy()


def filled_size(embedding: Embedding) -> tuple[int, int]:
    """(y, x) of the part of the head's frame that the image fills."""
    scale = 4 * embedding.features.shape[-1] / embedding.side
    height, width = (max(1, round(size * scale)) for size in embedding.input_size)
    return height, width


def _scale(maps: torch.Tensor, size: Any) -> torch.Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
