"""The refinement as a MONAI post-transform, on arrays and on dictionaries."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform, Transform
from monai.utils.type_conversion import convert_to_dst_type, convert_to_numpy

from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamBackend
from samstudent.sam.refine import Refinement, refine
from samstudent.task import Recipe, Task


class RefineWithSam(Transform):
    """Redraw a student's structures with SAM; wraps ``refine``.

    Args:
        backend: SAM.
        task: structures and recipe.
        cache: keeps embeddings; None: they are computed anew.
        recipes, adapted, signals: as in ``refine``.
    """

    def __init__(
        self,
        backend: SamBackend,
        task: Task,
        cache: EmbeddingCache | None = None,
        *,
        recipes: Mapping[str, Recipe] | None = None,
        adapted: SamBackend | None = None,
        signals: bool = True,
    ) -> None:
        # Not "backend": MONAI keeps there whether a transform works on numpy or torch.
        self.sam = backend
        self.task = task
        self.cache = cache
        self.recipes = recipes
        self.adapted = adapted
        self.signals = signals

    def __call__(  # type: ignore[override]
        self, probabilities: Any, image: Any, spacing: Sequence[float] | None = None
    ) -> Refinement:
        """Refine one case.

        Args:
            probabilities: array or tensor (S, *spatial), 0 to 1.
            image: array or tensor uint8 (*spatial, 3), on the same grid.
            spacing: as in ``refine``.
        """
        return refine(
            np.asarray(convert_to_numpy(probabilities), dtype=np.float32),
            np.asarray(convert_to_numpy(image)),
            self.sam,
            self.task,
            self.cache,
            adapted=self.adapted,
            recipes=self.recipes,
            signals=self.signals,
            spacing=spacing,
        )

    def as_json(self, refinement: Refinement) -> dict[str, Any]:
        """The refinement's figures and where they come from, for a result's JSON."""
        return {
            "backend": self.sam.name,
            "digest": self.sam.digest,
            "adapted": self.adapted.digest if self.adapted else None,
            "structures": refinement.as_json(),
        }


class RefineWithSamd(MapTransform):
    """Dictionary twin of ``RefineWithSam``.

    Replaces each key's probabilities by refined masks uint8 (S, *spatial), of the same type (array, tensor, MetaTensor
    with its meta data), and writes ``{"sam": RefineWithSam.as_json(...)}`` into the dictionary under ``result_key``,
    keeping what is there.

    Args:
        keys: of probabilities (S, *spatial).
        backend: SAM.
        task: structures and recipe.
        cache: keeps embeddings.
        image_key: of the image uint8 (*spatial, 3).
        result_key: of the figures; with several ``keys`` each is entered under its own name.
        coarse_key: where the cleaned coarse masks bool (S, *spatial) go; None: dropped.
        allow_missing_keys: as in MONAI.
        spacing_key: of a volume's voxel size, as in ``refine``; where the dictionary has none, it is taken as equal.
        recipes, adapted, signals: as in ``refine``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        backend: SamBackend,
        task: Task,
        cache: EmbeddingCache | None = None,
        image_key: str = "image_for_sam",
        result_key: str = "result",
        coarse_key: str | None = None,
        allow_missing_keys: bool = False,
        spacing_key: str = "spacing",
        *,
        recipes: Mapping[str, Recipe] | None = None,
        adapted: SamBackend | None = None,
        signals: bool = True,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = RefineWithSam(backend, task, cache, recipes=recipes, adapted=adapted, signals=signals)
        self.image_key = image_key
        self.result_key = result_key
        self.coarse_key = coarse_key
        self.spacing_key = spacing_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Refine each of ``keys``."""
        result = dict(data)
        for key in self.key_iterator(result):
            refinement = self.transform(result[key], result[self.image_key], result.get(self.spacing_key))
            result[key], *_ = convert_to_dst_type(refinement.masks.astype(np.uint8), result[key], dtype=np.uint8)
            name = "sam" if len(self.keys) == 1 else f"sam_{key}"
            result[self.result_key] = {
                **(result.get(self.result_key) or {}),
                name: self.transform.as_json(refinement),
            }
            if self.coarse_key is not None:
                result[self.coarse_key] = refinement.coarse
        return result
