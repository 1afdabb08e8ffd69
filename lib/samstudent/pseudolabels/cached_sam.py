"""SAM and the cache of its embeddings, which go together wherever pseudo labels are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.embedding import Embedding
from samstudent.sam.model import SamBackend, SamModel
from samstudent.task import Recipe


@dataclass(frozen=True)
class CachedSam:
    """A SAM backend and the cache of its embeddings.

    Attributes:
        backend: the plain SAM: encoder and decoder as published.
        cache: keeps embeddings on disk; None: they are computed and dropped.
    """

    backend: SamModel
    cache: EmbeddingCache | None = None

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """Embedding of an image or a slice, uint8 (y, x, 3), from the cache where it is there."""
        return self.backend.embed(image) if self.cache is None else self.cache.embed(self.backend, image)


def adapted_decoders(recipes: Mapping[str, Recipe], adapted: SamBackend | None) -> dict[str, SamBackend]:
    """The adapted SAM for each structure whose recipe takes its decoder, as ``Refiner`` takes it."""
    return {} if adapted is None else {name: adapted for name, r in recipes.items() if r.source != "plain_sam"}
