"""SAM on one image while a person draws: embeddings in memory, masks of boxes and points as cropped run lengths."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import UserError
from samstudent.rounds.study import Study
from samstudent.sam.clicks import mask_of_clicks
from samstudent.sam.embedding import Embedding
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Box, Point, Prompt
from samstudent.server.annotation.drawn_label import encoded
from samstudent.server.review_page.pictures import Cache, Cropped

#: Size of the embeddings in memory; one has 4 MB.
CACHE_BYTES = 128 << 20
#: Longest side of the grid of SAM's masks, in pixels; they are enlarged from there. SAM decodes 256 pixels a side.
GRID_SIDE = 1024
MAX_POINTS = 200


@dataclass(frozen=True)
class SamRequest:
    """Prompts of one structure on one plane, in pixels (x, y) of the plane.

    Attributes:
        structure: name; the adapted SAM is used for structures of the task.
        box: x0, y0, x1, y1, or None.
        positive, negative: points.
    """

    structure: str
    box: Box | None
    positive: Sequence[Point]
    negative: Sequence[Point]

    def prompt(self, size: tuple[int, int], scale: tuple[float, float]) -> Prompt:
        """Prompt on SAM's grid.

        Args:
            size: (y, x) of the plane.
            scale: (y, x) of SAM's grid, relative to the plane.

        Raises:
            UserError: no box and no positive point, too many points, or one outside of the image.
        """
        if self.box is None and not self.positive:
            raise UserError("send a box, or at least one positive point")
        if len(self.positive) + len(self.negative) > MAX_POINTS:
            raise UserError(f"at most {MAX_POINTS} points, not {len(self.positive) + len(self.negative)}")
        box = None
        if self.box is not None:
            (x0, x1), (y0, y1) = sorted(self.box[::2]), sorted(self.box[1::2])
            if x1 < -0.5 or y1 < -0.5 or x0 >= size[1] - 0.5 or y0 >= size[0] - 0.5:
                raise UserError(f"box {list(self.box)} is outside of the image: {size[1]} x {size[0]} pixels")
            corners = max(x0, 0.0), max(y0, 0.0), min(x1, size[1] - 1.0), min(y1, size[0] - 1.0)
            box = (corners[0] * scale[1], corners[1] * scale[0], corners[2] * scale[1], corners[3] * scale[0])
        for x, y in (*self.positive, *self.negative):
            if not (-0.5 <= x < size[1] - 0.5 and -0.5 <= y < size[0] - 0.5):
                raise UserError(f"point {x:g}, {y:g} is outside of the image: {size[1]} x {size[0]} pixels")

        def moved(points: Sequence[Point]) -> tuple[Point, ...]:
            return tuple((max(x, 0.0) * scale[1], max(y, 0.0) * scale[0]) for x, y in points)

        return Prompt(box, moved(self.positive), moved(self.negative))


class LiveSam:
    """SAM of one study.

    Args:
        study: with the active SAM and the embedding cache.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._cache = Cache(CACHE_BYTES)
        self._built: set[str] = set()

    def backend(self, structure: str | None = None) -> SamBackend:
        """The active SAM, as for the infer task ``sam``; the plain one for structures that are not in the task."""
        known = structure is None or structure in self._study.task.structures
        return self._study.sam() if known else self._study.plain_sam()

    def embedding(self, key: object, image: Callable[[], NDArray[np.uint8]], backend: SamBackend) -> Embedding:
        """Embedding of a plane.

        Args:
            key: of the image and plane.
            image: returns the plane, uint8 (y, x, 3).
            backend: the SAM.
        """

        def embed() -> tuple[Embedding, int]:
            found = self._study.embeddings.embed(backend, image())
            return found, found.features.nbytes

        embedding: Embedding = self._cache.get((key, backend.embedding_digest, backend.preprocessing), embed)
        return embedding

    def build(self, embedding: Embedding, backend: SamBackend) -> None:
        """Decode one box with a SAM that decoded none yet: its model is built then, which takes seconds."""
        if backend.digest in self._built:
            return
        height, width = embedding.image_size
        backend.decode(embedding, Prompt(box=(0.0, 0.0, width - 1.0, height - 1.0)))
        self._built.add(backend.digest)

    def mask(self, embedding: Embedding, request: SamRequest, backend: SamBackend) -> dict[str, Any]:
        """Mask of a request, as JSON: ``box`` and ``runs`` on the plane, ``predicted_iou``, ``milliseconds``.

        Raises:
            UserError: see ``SamRequest.prompt``.
        """
        start, size = time.perf_counter(), embedding.image_size
        shrink = min(1.0, GRID_SIDE / max(size))
        grid = max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))
        prompt = request.prompt(size, (grid[0] / size[0], grid[1] / size[1]))
        clicked = mask_of_clicks(backend, embedding.on_grid(grid), prompt, self._study.click_decoder(request.structure))
        mask = _enlarged(clicked.mask, size)
        return {
            **encoded(mask),
            "predicted_iou": round(clicked.predicted_iou, 4),
            "sam": backend.digest,
            "clicks": clicked.clicks,
            "milliseconds": round(1000 * (time.perf_counter() - start), 1),
        }


def _enlarged(mask: NDArray[np.bool_], size: tuple[int, int]) -> Cropped | None:
    """Mask on a finer grid of (y, x) = ``size``, with interpolated edges; None: it is empty."""
    found = Cropped.of(mask)
    if found is None or mask.shape == size:
        return found
    # Only the part with the mask, with a margin of one pixel for the interpolation.
    (y0, x0), (height, width) = found.start, found.content.shape
    y0, x0 = max(y0 - 1, 0), max(x0 - 1, 0)
    part = mask[y0 : y0 + height + 2, x0 : x0 + width + 2]
    factor = size[0] / mask.shape[0], size[1] / mask.shape[1]
    top, left = round(y0 * factor[0]), round(x0 * factor[1])
    bottom = min(round((y0 + part.shape[0]) * factor[0]), size[0])
    right = min(round((x0 + part.shape[1]) * factor[1]), size[1])
    grey = Image.fromarray(part.astype(np.uint8) * 255)
    fine = np.asarray(grey.resize((right - left, bottom - top), Image.Resampling.BILINEAR)) >= 128
    inner = Cropped.of(fine)
    return inner and Cropped((top + inner.start[0], left + inner.start[1]), inner.content)
