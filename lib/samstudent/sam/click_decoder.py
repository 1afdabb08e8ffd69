"""Click decoder: prompt encoder and mask decoder that were trained with clicks, for LiteMedSAM, which was not.

The general weights come with the package; ``weights/README.md`` has their data, licences, digest and command. They
decode clicks only: masks of boxes, and those of pseudo labels, come from the SAM itself.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from samstudent.sam.adapted import load_adapted
from samstudent.sam.lite_medsam import SHA256
from samstudent.sam.model import SamModel

#: General weights in the package.
WEIGHTS = Path(__file__).with_name("weights") / "lite_medsam_clicks.safetensors"


@lru_cache(maxsize=1)
def click_decoder(plain: SamModel) -> SamModel | None:
    """The click decoder of a SAM; None: it has none, because it was trained with points, or nothing is known of it.

    Args:
        plain: the SAM of the task, not an adapted one.

    Raises:
        UserError: the file of the weights is damaged.
    """
    return load_adapted(WEIGHTS, plain) if plain.digest == SHA256 else None
