"""What a structure is called outside of this task: a coded name and a colour, as DICOM segmentations carry them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: Of structures that the task gives no code. Private coding schemes start with 99 (DICOM PS3.3, 8.2); a code that is
#: only this software's says less than SNOMED's, but never something wrong.
OWN_SCHEME = "99SAMSTUDENT"


class Code(BaseModel):
    """A structure's entry in a coding scheme, e.g. ``{value: "80891009", meaning: Heart}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: str = Field(min_length=1, max_length=64, description="The code, in quotes: SNOMED's are all digits.")
    meaning: str = Field(min_length=1, max_length=64, description="What the code means, for people.")
    scheme: str = Field(
        default="SCT", min_length=1, max_length=16, description="Coding scheme designator; `SCT` is SNOMED CT."
    )
    side: Literal["left", "right"] | None = Field(
        default=None, description="Which of a pair, where the code does not say so itself."
    )
    color: str | None = Field(
        default=None,
        pattern=r"^#[0-9a-fA-F]{6}$",
        description='Colour in viewers: red, green, blue, e.g. `"#d02090"`. None: by place in the list.',
    )

    @property
    def key(self) -> tuple[str, str, str | None]:
        """What makes two codes the same."""
        return self.value, self.scheme, self.side

    @property
    def rgb(self) -> tuple[int, int, int] | None:
        """The colour, 0 to 255 each."""
        if self.color is None:
            return None
        red, green, blue = bytes.fromhex(self.color[1:])
        return red, green, blue


def own_code(structure: str) -> Code:
    """The code of a structure that the task gives none: its name."""
    return Code(value=structure, meaning=structure, scheme=OWN_SCHEME)
