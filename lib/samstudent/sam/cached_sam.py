"""SAM with the cache of its embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samstudent.sam.cache import EmbeddingCache, cached_embedding
from samstudent.sam.embedding import Embedding
from samstudent.sam.model import SamModel


@dataclass(frozen=True)
class CachedSam:
    """A SAM backend and the cache of its embeddings.

    Attributes:
        backend: the SAM.
        cache: stores embeddings on disk; None: they are computed at every call.
    """

    backend: SamModel
    cache: EmbeddingCache | None = None

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """Embedding of an image or a slice, uint8 (y, x, 3), from the cache where it is stored there."""
        return cached_embedding(self.backend, self.cache, image)
