"""Click decoder: prompt encoder and mask decoder that were trained with clicks, for LiteMedSAM, which was not.

The general weights come with the package; ``weights/README.md`` has their data, licences, digest and command. They
decode clicks only: masks of boxes, and those of pseudo labels, come from the SAM itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from samstudent.sam.adapted import load_adapted
from samstudent.sam.lite_medsam import SHA256
from samstudent.sam.model import SamBackend, SamModel
from samstudent.sam.prompts import Prompt

#: General weights in the package.
WEIGHTS = Path(__file__).with_name("weights") / "lite_medsam_clicks.safetensors"


@dataclass(frozen=True)
class ClickDecoder:
    """A SAM for prompts with points.

    Attributes:
        sam: with the trained decoder.
        least: number of clicks, of which a box is one, from which it is used. The general decoder is used from the
            second one, an adapted one from the first (docs/decisions/0031-a-decoder-for-clicks.md).
    """

    sam: SamBackend
    least: int = 2

    def takes(self, prompt: Prompt) -> bool:
        """Whether it decodes a prompt: one with points, and with enough of them."""
        points = len(prompt.positive) + len(prompt.negative)
        return points > 0 and points + (prompt.box is not None) >= self.least


@lru_cache(maxsize=1)
def click_decoder(plain: SamModel) -> SamModel | None:
    """The general click decoder of a SAM; None: there is none for it, and it may have been trained with points.

    Args:
        plain: the SAM of the task, not an adapted one.

    Raises:
        UserError: the file of the weights is damaged.
    """
    return load_adapted(WEIGHTS, plain) if plain.digest == SHA256 else None
