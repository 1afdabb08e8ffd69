"""SAM 2 (package ``sam2``, which MONAI Label depends on): images like any backend, and whole volumes as videos.

A volume's slices are the frames of a video. Each structure is an object: it gets boxes on a few slices, and SAM 2's
memory carries it to the others, both ways. SAM 2 reads videos from folders of JPEGs only; ``_Frames`` feeds it arrays
instead, prepared when they are asked for.

What was tested: no weights of SAM 2 were at hand, so the tests build the real network from its config with random
weights. They compare images with ``SAM2ImagePredictor``, and volumes with SAM 2's own reading of a folder of JPEGs:
the same logits. Nothing is known from here of how well it segments medical volumes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from samstudent.errors import UserError
from samstudent.sam.backends import Embedding, SamModel, Size, _form
from samstudent.sam.checkpoints import checked_digest, load_weights
from samstudent.sam.prompts import Box, Prompt
from samstudent.task import SamSection
from samstudent.util.device import autocast

Half = NDArray[np.float16]

#: A config that comes with ``sam2``.
EXAMPLE = "configs/sam2.1/sam2.1_hiera_t.yaml"
#: ImageNet's, as sam2.utils.misc.load_video_frames and SAM2Transforms have them.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Channels of the encoder's three levels after the decoder's own projections, finest first, and how many of their
#: pixels lie on the side of one pixel of the coarsest.
_LEVELS = ((32, 4), (64, 2), (256, 1))

_patching = threading.Lock()


class Sam2(SamModel):
    """SAM 2 as a ``SamBackend``, and as a tracker of volumes (``track``).

    An ``Embedding`` of it holds all three levels of the encoder in one array, (1, 1024, h, w): the coarsest first, then
    the finer ones with their pixels moved into channels, so that the cache keeps it like any other.
    """

    preprocessing = "sam2-1"
    parts = ("image_encoder", "sam_prompt_encoder", "sam_mask_decoder")
    memory_format = torch.preserve_format

    def track(
        self,
        volume: NDArray[np.uint8],
        boxes: Mapping[int, Mapping[int, Box]],
        span: tuple[int, int] | None = None,
        size: Size | None = None,
    ) -> dict[int, dict[int, Half]]:
        """Follow structures through a volume.

        All are walked forward from the first box and backward from the last box of any. A structure's answer is the
        forward walk's from its own first box on and the backward walk's before it; where it has several boxes, SAM 2's
        memory holds them all. A slice is encoded at most once in each walk and once for the boxes on it.

        Args:
            volume: uint8 (slices, y, x, 3).
            boxes: structure -> slice -> x0, y0, x1, y1; at least one structure, each with at least one box.
            span: first and last slice to walk to; None: the whole volume.
            size: (y, x) of the grid that boxes and logits are on; None: the volume's.

        Returns:
            structure -> slice -> logits float16 (y, x), above 0 on the structure, for every slice of ``span`` between
            the first and the last that were walked. Negative everywhere: SAM 2 thinks that it is not there.

        Raises:
            UserError: a structure without a box, a slice that is not there, a volume of another shape.
        """
        if volume.dtype != np.uint8 or volume.ndim != 4 or volume.shape[3] != 3 or 0 in volume.shape:
            raise UserError(f"SAM 2 needs a uint8 volume (slices, y, x, 3), not {volume.dtype} {volume.shape}")
        if not boxes or not all(boxes.values()):
            raise UserError("every structure to follow needs at least one box")
        low, high = span or (0, len(volume) - 1)
        if outside := sorted({z for given in boxes.values() for z in given if not low <= z <= high}):
            raise UserError(f"boxes on slices {outside}, but slices {low} to {high} are walked")
        first = {index: min(given) for index, given in boxes.items()}
        found: dict[int, dict[int, Half]] = {index: {} for index in boxes}
        with self._lock, autocast(self.device):
            model = self.load()
            state = _start(model, _Frames(volume, model.image_size, size or volume.shape[1:3]))
            for index, given in boxes.items():
                for z, box in sorted(given.items()):
                    model.add_new_points_or_box(state, frame_idx=z, obj_id=index, box=list(box))
            for reverse in (False, True):
                start = max(first.values()) if reverse else min(first.values())
                reach = start - low if reverse else high - start
                for z, indices, logits in model.propagate_in_video(state, start, reach, reverse):
                    for index, values in zip(indices, logits, strict=True):
                        if (z < first[index]) == reverse:
                            found[index][z] = values[0].to(torch.float16).cpu().numpy()
        return found

    def _features(self, prepared: torch.Tensor) -> torch.Tensor:
        """All levels of the encoder in one tensor (1, 1024, h, w)."""
        model = self._model
        *fine, top = model.forward_image(prepared)["backbone_fpn"]
        if model.directly_add_no_mem_embed:
            # As SAM2ImagePredictor: an image is a video whose memory is empty.
            top = top + model.no_mem_embed.reshape(1, -1, 1, 1)
        folded = [F.pixel_unshuffle(level, factor) for level, (_, factor) in zip(fine, _LEVELS, strict=False)]
        return torch.cat([top, *reversed(folded)], dim=1)

    def _ask(
        self, embedding: Embedding, features: torch.Tensor, prompts: Sequence[Prompt]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes are SAM 2's points of labels 2 and 3 and come first."""
        first, model = prompts[0], self._model
        points = [[*([] if p.box is None else [p.box[:2], p.box[2:]]), *p.positive, *p.negative] for p in prompts]
        labels = [*([] if first.box is None else [2, 3]), *[1] * len(first.positive), *[0] * len(first.negative)]
        masks = None
        if first.mask_input is not None:
            stack = np.stack([np.asarray(p.mask_input, dtype=np.float32)[None] for p in prompts])
            masks = torch.from_numpy(stack).to(self.device)
        sparse, dense = model.sam_prompt_encoder(
            points=(
                self._scale(points, embedding),
                torch.tensor([labels] * len(prompts), dtype=torch.int, device=self.device),
            ),
            boxes=None,
            masks=masks,
        )
        top, middle, fine = features.split([c * f * f for c, f in reversed(_LEVELS)], dim=1)
        low_res, iou, _, _ = model.sam_mask_decoder(
            image_embeddings=top,
            image_pe=self._dense_pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=_form(first) == (1, 0, False, False),
            repeat_image=len(prompts) > 1,
            high_res_features=[F.pixel_shuffle(fine, 4), F.pixel_shuffle(middle, 2)],
        )
        # SAM 2 was trained with earlier logits within these bounds.
        return low_res.clamp(-32, 32), iou

    def _prepare(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, Size]:
        """Squeezed into a square without regard to the aspect, as SAM2ImagePredictor does."""
        side = int(self.load().image_size)
        pixels = _tensor(image)[None]
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        return _normalised(pixels), (side, side)


class _Frames:
    """A volume as SAM 2's list of frames: tensors float32 (3, side, side), each made when it is asked for.

    ``size`` is what SAM 2 takes for the (y, x) of the video.
    """

    def __init__(self, volume: NDArray[np.uint8], side: int, size: Sequence[int]) -> None:
        self.volume, self.side, self.size = volume, side, size

    def __len__(self) -> int:
        return len(self.volume)

    def __getitem__(self, z: int) -> torch.Tensor:
        # Cubic, as SAM 2 reads the frames of a video; its images are resized linearly.
        resized = Image.fromarray(self.volume[z]).resize((self.side, self.side), Image.Resampling.BICUBIC)
        return _normalised(_tensor(np.asarray(resized)))


def _tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (y, x, 3) to float32 (3, y, x) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def _normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_DEVIATION)[:, None, None]


def _start(model: Any, frames: _Frames) -> Any:
    """SAM 2's state for a volume in memory.

    Its ``init_state`` accepts nothing but paths and keeps twenty things of its own, so it is called as it is, and what
    it calls to read a path is taught to pass our frames through. Paths are read as ever, so others who use ``sam2`` in
    this process (MONAI Label's own task) are not disturbed.
    """
    import sam2.sam2_video_predictor as module

    with _patching:
        read = module.load_video_frames
        if not hasattr(read, "takes_arrays"):

            def load_video_frames(video_path: Any, *args: Any, **more: Any) -> Any:
                if isinstance(video_path, _Frames):
                    return (video_path, *video_path.size)
                return read(*args, video_path=video_path, **more)

            load_video_frames.takes_arrays = True  # type: ignore[attr-defined]
            module.load_video_frames = load_video_frames
    return model.init_state(video_path=frames)


def load(section: SamSection, device: str | None = None) -> Sam2:
    """SAM 2 from a checkpoint on disk; see ``backends.load_backend``.

    Raises:
        NotFound: no such checkpoint. UserError: no such config, or (at first use) weights of another model.
    """
    if section.checkpoint is None or section.config is None:
        raise UserError("backend sam2 needs 'checkpoint', the path of its weights, and 'config', its network's name")
    path, config = section.checkpoint, section.config
    return Sam2("sam2", checked_digest(path, section.sha256), lambda: build(config, path), device)


def build(config: str, path: Path | None) -> Any:
    """SAM 2's video predictor, which is its image model too.

    Args:
        config: a file that comes with ``sam2``, e.g. "configs/sam2.1/sam2.1_hiera_t.yaml".
        path: of its weights; None: random ones, for tests.
    """
    from hydra.errors import HydraException
    from sam2.build_sam import build_sam2_video_predictor

    try:
        model = build_sam2_video_predictor(config, None, device="cpu")
    except HydraException as error:
        raise UserError(f"sam.config {config!r}: not a config of sam2, such as {EXAMPLE!r}: {error}") from error
    if path is not None:
        load_weights(model, path, f"SAM 2 ({config})")
    return made_ready(model)


def made_ready(model: Any) -> Any:
    """The given video predictor of SAM 2, mended in place for machines that it was not made for."""
    # Needs a CUDA extension that pip does not build, and warns at every frame without it.
    model.fill_hole_area = 0

    def in_float32(module: Any, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, named | {"memory": named["memory"].float()}

    # Memory is kept in bfloat16, which its attention only takes under autocast; and that is ten times slower than
    # float32 on a CPU that emulates bfloat16.
    model.memory_attention.register_forward_pre_hook(in_float32, with_kwargs=True)
    return model
