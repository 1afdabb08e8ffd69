"""What a structure is called outside of this task: a coded name and a colour, as DICOM segmentations carry them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

#: Of structures that the task gives no code. Private coding schemes start with 99 (DICOM PS3.3, 8.2); a code that is
#: only this software's says less than SNOMED's, but never something wrong.
OWN_SCHEME = "99SAMSTUDENT"


class Code(BaseModel):
    """A structure's entry in a coding scheme, e.g. ``{value: "80891009", meaning: Heart}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The code, in quotes: SNOMED's are all digits.
    value: Annotated[str, Field(min_length=1, max_length=64)]
    #: What the code means, for people.
    meaning: Annotated[str, Field(min_length=1, max_length=64)]
    #: Coding scheme designator: ``SCT`` is SNOMED CT.
    scheme: Annotated[str, Field(min_length=1, max_length=16)] = "SCT"
    #: Which of a pair, where the code does not say so itself.
    side: Literal["left", "right"] | None = None
    #: Red, green, blue, e.g. "#d02090". None: a colour of the structure's place in the list.
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None

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
