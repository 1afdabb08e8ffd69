"""Coded name and colour of a structure, for DICOM segmentations."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: Scheme of structures without a code in the task. Private coding schemes start with 99 (DICOM PS3.3, 8.2); a private
#: code carries less information than one of SNOMED, but is never wrong.
OWN_SCHEME = "99SAMSTUDENT"


class Code(BaseModel):
    """A structure's entry in a coding scheme, e.g. ``{value: "80891009", meaning: Heart}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: str = Field(min_length=1, max_length=64, description="The code, in quotes: SNOMED's are all digits.")
    meaning: str = Field(min_length=1, max_length=64, description="Meaning of the code, for users.")
    scheme: str = Field(
        default="SCT", min_length=1, max_length=16, description="Coding scheme designator; `SCT` is SNOMED CT."
    )
    side: Literal["left", "right"] | None = Field(
        default=None, description="Side of a paired structure, unless the code includes it."
    )
    color: str | None = Field(
        default=None,
        pattern=r"^#[0-9a-fA-F]{6}$",
        description='Colour in viewers: red, green, blue, e.g. `"#d02090"`. None: by position in the list.',
    )

    @property
    def key(self) -> tuple[str, str, str | None]:
        """Identity of a code: value, scheme and side."""
        return self.value, self.scheme, self.side

    @property
    def rgb(self) -> tuple[int, int, int] | None:
        """The colour, 0 to 255 each."""
        if self.color is None:
            return None
        red, green, blue = bytes.fromhex(self.color[1:])
        return red, green, blue


def own_code(structure: str) -> Code:
    """Private code of a structure without a code in the task: its name."""
    return Code(value=structure, meaning=structure, scheme=OWN_SCHEME)
