"""Segment Anything models behind one interface: embed an image once, decode any number of prompts.

numpy outside, torch inside. What differs between the models is how an image is prepared; the prompt encoder and the
mask decoder are the same architecture in all of them, so both live in ``SamModel``.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from samstudent.errors import UserError
from samstudent.sam import lean
from samstudent.sam.prompts import Mask, Prompt
from samstudent.task import SamSection
from samstudent.util.device import on_all_cores

Float = NDArray[np.float32]
Size = tuple[int, int]

#: Probability that a pixel inside a mask prompt gets, and 1 minus that outside: logits of about +-7, SAM's own range.
_SURE = 0.999
#: Prompts decoded at once on a GPU; bounds the memory (about 60 MB each in float32).
_BATCH = 16


@dataclass(frozen=True)
class Embedding:
    """An image as SAM's encoder sees it.

    Attributes:
        features: float32 (1, 256, h, w).
        image_size: (y, x) of the original image.
        input_size: (y, x) of the image after resizing, before padding.
        side: the square that the model looks at, padding included, in pixels of the resized image.
    """

    features: Float
    image_size: Size
    input_size: Size
    side: int

    def pooled(self) -> Float:
        """The mean feature vector float32 (256,) of the image without its padding."""
        per_pixel = self.features.shape[-1] / self.side
        height, width = (max(1, round(size * per_pixel)) for size in self.input_size)
        return np.asarray(self.features[0, :, :height, :width].mean(axis=(1, 2)), dtype=np.float32)


@dataclass(frozen=True)
class Decoded:
    """SAM's answer to one prompt.

    Attributes:
        low_res: float32 (L, L) logits in the model's padded frame; may be fed back as ``Prompt.mask_input``.
        predicted_iou: the model's own guess of the overlap of its mask with the truth; near 0 to 1.
        embedding: of the image it belongs to.
    """

    low_res: Float
    predicted_iou: float
    embedding: Embedding

    @property
    def logits(self) -> Float:
        """float32 (y, x) at the image's size; the mask is where they are above 0. Computed at every access, because
        those of earlier stages are never needed and those of a large radiograph are."""
        side = self.embedding.side
        height, width = self.embedding.input_size
        with torch.inference_mode():
            logits = torch.from_numpy(self.low_res)[None, None]
            logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)[..., :height, :width]
            logits = F.interpolate(logits, self.embedding.image_size, mode="bilinear", align_corners=False)
        return np.asarray(logits[0, 0].numpy())


class SamBackend(Protocol):
    """What refinement, cache and the interactive tasks need of a SAM.

    Attributes:
        name: the task file's word for it, e.g. "lite_medsam".
        digest: SHA-256 of the weights, hex.
        embedding_digest: ``digest`` of the SAM whose image encoder this is: backends of equal ones, such as a SAM and
            the same with an adapted decoder, share embeddings.
        preprocessing: name and version of the image's preparation; changes when embeddings would.
    """

    name: str
    digest: str
    embedding_digest: str

    @property
    def preprocessing(self) -> str: ...

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """Embed an image, uint8 (y, x, 3)."""

    def decode(self, embedding: Embedding, prompt: Prompt) -> Decoded:
        """Answer one prompt."""

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Decoded]:
        """Answer several prompts about one image, in their order."""


class SamModel(ABC):
    """The part that all SAMs share; a ``SamBackend``.

    The model is built at first use, under a lock, and never changed by what it is asked: one object serves all threads
    of a server at once.

    One mask is decoded for each prompt, except for a single positive point with nothing else, which may mean a part or
    the whole: then the best by predicted IoU of the three masks that SAM offers for this case, if it was trained so.

    Args:
        name: see ``SamBackend``.
        digest: SHA-256 of the weights, hex.
        build: makes the model in evaluation mode, with ``image_encoder``, ``prompt_encoder`` and ``mask_decoder``.
        device: a torch device; None: cuda where there is one, else cpu.
    """

    preprocessing: ClassVar[str]
    #: Names of the model's parts: image encoder, prompt encoder, mask decoder.
    parts: ClassVar[tuple[str, str, str]] = ("image_encoder", "prompt_encoder", "mask_decoder")
    #: A CPU is a quarter faster with channels last, and the numbers are the same (to 1e-5).
    memory_format: ClassVar[torch.memory_format] = torch.channels_last
    #: Whether the three outputs for ambiguous prompts were trained.
    ambiguous_points: ClassVar[bool] = True

    def __init__(self, name: str, digest: str, build: Callable[[], Any], device: str | None = None) -> None:
        self.name = name
        self.digest = digest
        self.embedding_digest = digest
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        #: A CPU is faster with one prompt at a time, a GPU with many (docs/reference/recipe.md).
        self.loops = self.device.type == "cpu"
        self._build = build
        self._model: Any = None
        self._dense_pe: Any = None
        self._lock = threading.RLock()

    def load(self) -> Any:
        """Build the model now rather than at first use, e.g. to see at start that its file is right."""
        with self._lock:
            if self._model is None:
                # Callers may be in inference mode; what is made there could not be trained on later (sam/adapt.py).
                with torch.inference_mode(False), torch.no_grad():
                    model = self._build().eval().to(self.device, memory_format=self.memory_format)
                    self._dense_pe = getattr(model, self.parts[1]).get_dense_pe()
                self._model = model
            return self._model

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """Embed an image.

        Args:
            image: uint8 (y, x, 3).

        Raises:
            UserError: another dtype or shape.
        """
        with torch.inference_mode():
            features, input_size, side = self.encode(image)
        return Embedding(features.contiguous().cpu().numpy(), (image.shape[0], image.shape[1]), input_size, side)

    def encode(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, Size, int]:
        """The features float32 of ``embed`` as a tensor, with gradients where they are on; ``input_size``, ``side``."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise UserError(f"SAM needs a uint8 image (y, x, 3), not {image.dtype} {image.shape}")
        self.load()
        prepared, input_size = self._prepare(image)
        return self._features(prepared.to(self.device)).float(), input_size, prepared.shape[-1]

    def decode(self, embedding: Embedding, prompt: Prompt) -> Decoded:
        """Answer one prompt."""
        return self.decode_many(embedding, [prompt])[0]

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Decoded]:
        """Answer several prompts about one image, in their order.

        One by one where ``loops`` is set, on all cores of the calling thread; else all of one form at once.

        Raises:
            UserError: a prompt with neither box nor point.
        """
        groups: dict[object, list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            if prompt.box is None and not prompt.positive and not prompt.negative:
                raise UserError("a prompt needs a box or a point")
            groups[index if self.loops else _form(prompt)].append(index)
        batches = [group[start : start + _BATCH] for group in groups.values() for start in range(0, len(group), _BATCH)]
        with torch.inference_mode():
            self.load()
            features = torch.from_numpy(embedding.features).to(self.device)
            seen = self._look(features, prompts)

        def work(batch: list[int]) -> list[Decoded]:
            with torch.inference_mode():
                return self._decode_alike(embedding, features, [prompts[i] for i in batch], seen)

        decoded = on_all_cores(work, batches)
        answers = {
            i: answer
            for batch, part in zip(batches, decoded, strict=True)
            for i, answer in zip(batch, part, strict=True)
        }
        return [answers[i] for i in range(len(prompts))]

    def _look(self, features: torch.Tensor, prompts: Sequence[Prompt]) -> lean.Look | None:
        """What prompts without a mask share of the decoder's work; None where there are none, or no such way."""
        decoder = getattr(self._model, self.parts[2])
        if not lean.fits(decoder) or all(p.mask_input is not None or self.offers_three(p) for p in prompts):
            return None
        _, dense = self._model.prompt_encoder(None, None, None)
        return lean.look(decoder, features, self._dense_pe, dense)

    def _decode_alike(
        self, embedding: Embedding, features: torch.Tensor, prompts: list[Prompt], seen: lean.Look | None
    ) -> list[Decoded]:
        low_res, iou = (part.float().cpu() for part in self.answer(embedding, features, prompts, seen))
        return [Decoded(m, q, embedding) for m, q in zip(low_res.numpy(), iou.tolist(), strict=True)]

    def answer(
        self, embedding: Embedding, features: torch.Tensor, prompts: Sequence[Prompt], seen: lean.Look | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, L, L) and predicted IoU (N,) for N prompts of one form, with gradients where they are on.

        Args:
            embedding: of the image; only its sizes are used.
            features: (1, 256, h, w), on ``device``.
            prompts: with the same number of points, all or none with box, all or none with mask.
            seen: ``lean.look`` at the features without a mask, for prompts without one; None: looked at now.
        """
        decoder = getattr(self._model, self.parts[2])
        if lean.fits(decoder) and not self.offers_three(prompts[0]):
            sparse, dense = self.encode_prompts(embedding, prompts)
            masked = prompts[0].mask_input is not None
            if masked or seen is None:
                seen = lean.look(decoder, features, self._dense_pe, dense if masked else dense[:1])
            return lean.decode(decoder, seen, sparse)
        low_res, iou = self._ask(embedding, features, prompts)
        best = iou.argmax(dim=1)
        rows = torch.arange(len(prompts), device=best.device)
        return low_res[rows, best], iou[rows, best]

    def _features(self, prepared: torch.Tensor) -> torch.Tensor:
        """The encoder's output for ``_prepare``'s."""
        features: torch.Tensor = self._model.image_encoder(prepared)
        return features

    def _ask(
        self, embedding: Embedding, features: torch.Tensor, prompts: Sequence[Prompt]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, M, L, L) and predicted IoU (N, M) of the M masks that the decoder offers for each prompt."""
        sparse, dense = self.encode_prompts(embedding, prompts)
        answer: tuple[torch.Tensor, torch.Tensor] = self._model.mask_decoder(
            image_embeddings=features,
            image_pe=self._dense_pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.offers_three(prompts[0]),
        )
        return answer

    def offers_three(self, prompt: Prompt) -> bool:
        """Whether the answer is the best of three masks."""
        return self.ambiguous_points and _form(prompt) == (1, 0, False, False)

    def encode_prompts(self, embedding: Embedding, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (N, T, C) and masks (N, C, h, w) of N prompts of one form, as the mask decoder takes them."""
        first = prompts[0]
        points = boxes = masks = None
        if first.positive or first.negative:
            coords = self._scale([[*p.positive, *p.negative] for p in prompts], embedding)
            signs = [[1] * len(first.positive) + [0] * len(first.negative)] * len(prompts)
            points = (coords, torch.tensor(signs, dtype=torch.int, device=self.device))
        if first.box is not None:
            corners = [[(p.box[0], p.box[1]), (p.box[2], p.box[3])] for p in prompts if p.box is not None]
            boxes = self._scale(corners, embedding).reshape(-1, 4)
        if first.mask_input is not None:
            stack = np.stack([np.asarray(p.mask_input, dtype=np.float32)[None] for p in prompts])
            masks = torch.from_numpy(stack).to(self.device)
        # Positions do not bear reduced precision: bfloat16 tells 256 pixels apart, no finer.
        with torch.autocast(self.device.type, enabled=False):
            encoded: tuple[torch.Tensor, torch.Tensor] = self._model.prompt_encoder(points, boxes, masks)
        return encoded

    def _scale(self, points: list[list[tuple[float, float]]], embedding: Embedding) -> torch.Tensor:
        """Points (B, N, 2) x, y from pixels of the image to pixels of the resized image.

        Pixel 0 stays pixel 0, as in segment-anything's ``ResizeLongestSide.apply_coords``; its prompt encoder adds the
        half pixel.
        """
        (height, width), (new_height, new_width) = embedding.image_size, embedding.input_size
        scaled = np.asarray(points, dtype=np.float64) * [new_width / width, new_height / height]
        return torch.as_tensor(scaled, dtype=torch.float, device=self.device)

    @abstractmethod
    def _prepare(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, Size]:
        """The encoder's input float32 (1, 3, side, side), and the (y, x) of the image in its upper left corner."""


def mask_input(mask: Mask, embedding: Embedding) -> Float:
    """A mask, bool (y, x) at the image's size, as the logits float32 (L, L) that SAM takes as mask prompt."""
    inside = np.clip(low_res_share(mask, embedding), 1 - _SURE, _SURE)
    return np.asarray(np.log(inside / (1 - inside)))


def low_res_share(mask: Mask, embedding: Embedding) -> Float:
    """Which share of each pixel of SAM's answers a mask covers.

    Args:
        mask: bool (y, x) at the image's size.
        embedding: of that image.

    Returns:
        float32 (L, L) from 0 to 1, in the model's padded frame, L being four times the side of the features.
    """
    side, low = embedding.side, 4 * embedding.features.shape[-1]
    height, width = embedding.input_size
    with torch.inference_mode():
        inside = torch.from_numpy(mask.astype(np.float32))[None, None]
        inside = F.interpolate(inside, (height, width), mode="bilinear", align_corners=False, antialias=True)
        inside = F.adaptive_avg_pool2d(F.pad(inside, (0, side - width, 0, side - height)), low)
        return np.asarray(inside[0, 0].numpy())


def load_backend(section: SamSection, device: str | None = None) -> SamModel:
    """The SAM that a task file names. Its file is checked now, the model is built at first use (or by ``load``).

    Raises:
        NotFound: no such checkpoint, or the package that brings the embedded weights is missing.
        UserError: the file is not what its digest says, or (at first use) holds another model's weights.
    """
    # Late: each import takes seconds, and only one is needed.
    if section.backend == "lite_medsam":
        from samstudent.sam import lite_medsam

        return lite_medsam.load(device)
    if section.backend == "sam2":
        from samstudent.sam import sam2_video

        return sam2_video.load(section, device)
    from samstudent.sam import segment_anything

    return segment_anything.load(section, device)


def _form(prompt: Prompt) -> tuple[int, int, bool, bool]:
    """Prompts of one form can be decoded in one batch."""
    return len(prompt.positive), len(prompt.negative), prompt.box is not None, prompt.mask_input is not None
