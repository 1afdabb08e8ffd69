"""Segment Anything (vit_b, vit_l, vit_h) and MedSAM (a vit_b) from a user's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything import sam_model_registry
from segment_anything.utils.transforms import ResizeLongestSide

from samstudent.errors import UserError
from samstudent.sam.embedding import Size
from samstudent.sam.model import SamModel
from samstudent.task import SamSection
from samstudent.util.checkpoints import checked_digest, load_weights


class SegmentAnything(SamModel):
    """Meta's Segment Anything; images are prepared by its own code, as ``SamPredictor.set_image`` does."""

    preprocessing = "segment_anything-1"

    def _prepare(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, Size]:
        """Longest side to 1024, ImageNet's mean and deviation, then zeros right and below."""
        model = self.load()
        resized = ResizeLongestSide(model.image_encoder.img_size).apply_image(image)
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))[None].to(self.device)
        return model.preprocess(pixels), (resized.shape[0], resized.shape[1])


class MedSam(SamModel):
    """MedSAM: images are prepared as in the authors' inference (bowang-lab/MedSAM, MedSAM_Inference.py)."""

    preprocessing = "medsam-1"
    trained_multimask = False

    def _prepare(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, Size]:
        """Resized to 1024x1024 without keeping the aspect, then minimum to maximum of this image to [0, 1]."""
        side = int(self.load().image_encoder.img_size)
        # Cubic and smoothed when shrinking, like the authors' skimage.transform.resize(order=3, anti_aliasing=True).
        resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        pixels = np.asarray(resized, dtype=np.float32)
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels - low) / max(high - low, 1e-8)).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(pixels))[None], (side, side)


def load(section: SamSection, device: str | None = None) -> SamModel:
    """The backend of a checkpoint on disk; see ``registry.load_backend``."""
    if section.checkpoint is None:
        raise UserError(f"backend {section.backend} needs 'checkpoint', the path of its weights")
    path, name = section.checkpoint, section.backend
    digest = checked_digest(path, "sam.checkpoint", section.sha256)
    kind: type[SamModel] = MedSam if name == "medsam" else SegmentAnything
    return kind(name, digest, lambda: _build(name, path), device)


def _build(name: str, path: Path) -> Any:
    model = sam_model_registry["vit_b" if name == "medsam" else name]()
    load_weights(model, path, name)
    return model.eval()
