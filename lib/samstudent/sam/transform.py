"""SAM refinement as a MONAI post-transform, on arrays and on dictionaries."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_dst_type, convert_to_numpy

from samstudent.sam.refiner import Refiner
from samstudent.sam.results import Refinement


class SamRefine(Transform):
    """Refinement of a network's segmentation by SAM, as a transform.

    Args:
        refiner: SAM, recipes, and whether structures may share pixels.
        channel_dim: axis of the image's three colour channels: -1, or 0 for images in MONAI's channel-first layout.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012  MONAI's own form

    def __init__(self, refiner: Refiner, channel_dim: int = -1) -> None:
        self.refiner = refiner
        self.channel_dim = channel_dim

    def __call__(  # type: ignore[override]
        self, probabilities: Any, image: Any, spacing: Sequence[float] | None = None
    ) -> Any:
        """Refined masks uint8 (S, *spatial), of the type of ``probabilities`` (array, tensor, MetaTensor).

        Args:
            probabilities: array or tensor (S, *spatial), 0 to 1; coarse masks of 0 and 1 are allowed.
            image: array or tensor uint8 on the same grid, (*spatial, 3) unless ``channel_dim`` is set.
            spacing: of a volume, the voxel size along its axes; None: that of a MetaTensor, else taken as equal.
        """
        return masks_like(self.refine(probabilities, image, spacing), probabilities)

    def refine(self, probabilities: Any, image: Any, spacing: Sequence[float] | None = None) -> Refinement:
        """Masks, soft masks and figures of each structure; arguments as of a call."""
        if spacing is None and isinstance(probabilities, MetaTensor):
            spacing = [float(size) for size in probabilities.pixdim[: probabilities.ndim - 1]]
        pixels = np.moveaxis(np.asarray(convert_to_numpy(image)), self.channel_dim, -1)
        values = np.asarray(convert_to_numpy(probabilities), dtype=np.float32)
        return self.refiner.refine(values, np.ascontiguousarray(pixels), spacing)


class SamRefined(MapTransform):
    """Dictionary version of ``SamRefine``.

    Replaces the probabilities under each key by the refined masks, and adds the ``Refinement`` under
    ``<key>_<postfix>``: its structures have SAM's figures and prompts, its soft masks are probabilities.

    Args:
        keys: of probabilities (S, *spatial).
        refiner: as of ``SamRefine``.
        image_key: of the image, uint8 on the same grid.
        spacing_key: of a volume's voxel size; where the dictionary has none, as of ``SamRefine``.
        channel_dim: as of ``SamRefine``.
        postfix: of the key of the ``Refinement``.
        allow_missing_keys: as in MONAI.
    """

    backend = SamRefine.backend

    # Seven arguments, as MONAI's dictionary transforms have one for each key and option.
    def __init__(
        self,
        keys: KeysCollection,
        refiner: Refiner,
        image_key: str = "image",
        spacing_key: str = "spacing",
        *,
        channel_dim: int = -1,
        postfix: str = "refinement",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = SamRefine(refiner, channel_dim)
        self.image_key = image_key
        self.spacing_key = spacing_key
        self.postfix = postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Refine each of ``keys``."""
        result = dict(data)
        for key in self.key_iterator(result):
            refinement = self.transform.refine(result[key], result[self.image_key], result.get(self.spacing_key))
            result[key] = masks_like(refinement, result[key])
            result[f"{key}_{self.postfix}"] = refinement
        return result


def masks_like(refinement: Refinement, probabilities: Any) -> Any:
    """Masks uint8 of a refinement, with the type and the meta data of ``probabilities``."""
    masks, *_ = convert_to_dst_type(refinement.masks.astype(np.uint8), probabilities, dtype=np.uint8)
    return masks
