"""Segment Anything models with one interface: embed an image once, decode any number of prompts.

numpy outside, torch inside. The models differ in the preparation of images; prompt encoder and mask decoder have the
same architecture in all of them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.sam import fast_decoder
from samstudent.sam.embedding import DecodedMask, Embedding, Size
from samstudent.sam.prompts import Prompt
from samstudent.util.device import on_all_cores

#: Prompts in one batch on a GPU; limits the memory (about 60 MB each in float32).
_BATCH = 16


class SamBackend(Protocol):
    """SAM backend, as used by refinement, cache and interactive tasks.

    Attributes:
        name: its name in the task file, e.g. "lite_medsam".
        digest: SHA-256 of the weights, hex.
        embedding_digest: ``digest`` of the SAM with this image encoder: backends with equal ones, such as a SAM and
            an adapted one, share embeddings.
        preprocessing: name and version of the preparation of images; changes whenever embeddings would change.
    """

    name: str
    digest: str
    embedding_digest: str

    @property
    def preprocessing(self) -> str: ...

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """Embed an image, uint8 (y, x, 3)."""

    def decode(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
        """Mask of one prompt."""

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
        """Masks of several prompts on one image, in the same order."""


class SamModel(ABC):
    """Base class of all SAMs; a ``SamBackend``.

    The model is built at first use, under a lock, and not changed by embedding or decoding: several threads may use one
    object at the same time.

    One mask is decoded for each prompt. A single positive point without a box or mask is ambiguous (part or whole): the
    result is the best, by predicted IoU, of the three masks that SAM predicts for it, if it was trained so.

    Args:
        name: see ``SamBackend``.
        digest: SHA-256 of the weights, hex.
        build: function that builds the model in evaluation mode, with ``image_encoder``, ``prompt_encoder`` and
            ``mask_decoder``.
        device: a torch device; None: cuda where there is one, else cpu.
    """

    preprocessing: ClassVar[str]
    #: Whether the three masks for ambiguous prompts were trained.
    trained_multimask: ClassVar[bool] = True

    def __init__(self, name: str, digest: str, build: Callable[[], Any], device: str | None = None) -> None:
        self.name = name
        self.digest = digest
        self.embedding_digest = digest
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        #: A CPU is faster with one prompt at a time, a GPU with many (docs/reference/recipe.md).
        self.one_by_one = self.device.type == "cpu"
        self._build = build
        self._model: Any = None
        self._dense_pe: Any = None
        self._lock = threading.RLock()

    def load(self) -> Any:
        """Build the model, if that was not done yet, e.g. to check its file at the start."""
        with self._lock:
            if self._model is None:
                # Tensors made in a caller's inference mode could not be trained later (sam/adapt.py).
                with torch.inference_mode(False), torch.no_grad():
                    # A CPU is a quarter faster with channels last, and the numbers are the same (to 1e-5).
                    model = self._build().eval().to(self.device, memory_format=torch.channels_last)
                    self._dense_pe = model.prompt_encoder.get_dense_pe()
                self._model = model
            return self._model

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """Embed an image.

        Args:
            image: uint8 (y, x, 3).

        Raises:
            UserError: another dtype or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise UserError(f"SAM needs a uint8 image (y, x, 3), not {image.dtype} {image.shape}")
        with torch.inference_mode():
            self.load()
            prepared, input_size = self._prepare(image)
            features = self._model.image_encoder(prepared.to(self.device)).float().contiguous().cpu().numpy()
        return Embedding(features, (image.shape[0], image.shape[1]), input_size, prepared.shape[-1])

    def decode(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
        """Mask of one prompt."""
        return self.decode_many(embedding, [prompt])[0]

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
        """Masks of several prompts on one image, in the same order.

        One at a time where ``one_by_one`` is set, on all cores of the calling thread; else all of one layout together.

        Raises:
            UserError: a prompt with neither box nor point.
        """
        groups: dict[object, list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            if prompt.box is None and not prompt.positive and not prompt.negative:
                raise UserError("a prompt needs a box or a point")
            groups[index if self.one_by_one else layout_of(prompt)].append(index)
        batches = [group[start : start + _BATCH] for group in groups.values() for start in range(0, len(group), _BATCH)]
        with torch.inference_mode():
            self.load()
            features = torch.from_numpy(embedding.features).to(self.device)
            tokens = self._maskless_tokens(features, prompts)

        def decode_batch(batch: list[int]) -> list[DecodedMask]:
            with torch.inference_mode():
                chosen = [prompts[i] for i in batch]
                low_res, iou = (t.float().cpu() for t in self.decode_low_res(embedding, features, chosen, tokens))
            return [DecodedMask(m, q, embedding.frame) for m, q in zip(low_res.numpy(), iou.tolist(), strict=True)]

        decoded = on_all_cores(decode_batch, batches)
        by_index = {
            i: mask for batch, masks in zip(batches, decoded, strict=True) for i, mask in zip(batch, masks, strict=True)
        }
        return [by_index[i] for i in range(len(prompts))]

    def _maskless_tokens(self, features: torch.Tensor, prompts: Sequence[Prompt]) -> fast_decoder.ImageTokens | None:
        """Image tokens shared by prompts without a mask; None where there are no such prompts."""
        if all(p.mask_input is not None or self.has_three_masks(p) for p in prompts):
            return None
        _, dense = self._model.prompt_encoder(None, None, None)
        return fast_decoder.image_tokens(self._model.mask_decoder, features, self._dense_pe, dense)

    def decode_low_res(
        self,
        embedding: Embedding,
        features: torch.Tensor,
        prompts: Sequence[Prompt],
        tokens: fast_decoder.ImageTokens | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, L, L) and predicted IoU (N,) for N prompts of one layout, with gradients where they are on.

        Args:
            embedding: of the image; only its sizes are used.
            features: (1, 256, h, w), on ``device``.
            prompts: with the same number of points, all or none with box, all or none with mask.
            tokens: of the image without a mask, for prompts without one; None: computed here.
        """
        decoder = self._model.mask_decoder
        if self.has_three_masks(prompts[0]):
            low_res, iou = self._decode_by_library(embedding, features, prompts)
            best = iou.argmax(dim=1)
            rows = torch.arange(len(prompts), device=best.device)
            return low_res[rows, best], iou[rows, best]
        sparse, dense = self.encode_prompts(embedding, prompts)
        masked = prompts[0].mask_input is not None
        if masked or tokens is None:
            tokens = fast_decoder.image_tokens(decoder, features, self._dense_pe, dense if masked else dense[:1])
        return fast_decoder.decode(decoder, tokens, sparse)

    def _decode_by_library(
        self, embedding: Embedding, features: torch.Tensor, prompts: Sequence[Prompt]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, M, L, L) and predicted IoU (N, M) of the M masks of segment-anything's own forward pass."""
        sparse, dense = self.encode_prompts(embedding, prompts)
        decoded: tuple[torch.Tensor, torch.Tensor] = self._model.mask_decoder(
            image_embeddings=features,
            image_pe=self._dense_pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.has_three_masks(prompts[0]),
        )
        return decoded

    def has_three_masks(self, prompt: Prompt) -> bool:
        """Whether the mask of a prompt is the best of three."""
        return self.trained_multimask and layout_of(prompt) == (1, 0, False, False)

    def encode_prompts(self, embedding: Embedding, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (N, T, C) and masks (N, C, h, w) of N prompts of one layout, for the mask decoder."""
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
        # Positions need full precision: bfloat16 distinguishes only 256 of them.
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
        """Input of the encoder, float32 (1, 3, side, side), and (y, x) of the image in its upper left corner."""


def layout_of(prompt: Prompt) -> tuple[int, int, bool, bool]:
    """Layout of a prompt: numbers of points, whether it has a box and a mask. A batch has prompts of one layout."""
    return len(prompt.positive), len(prompt.negative), prompt.box is not None, prompt.mask_input is not None
