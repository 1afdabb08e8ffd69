"""Tags of labels: which of a case's labels is meant, and the folder ``labels/<tag>/`` that it lies in."""

from __future__ import annotations

#: A human's label, which is trained on.
FINAL = "final"
#: Pseudo label of the student and SAM; its quality is in the label's info.
PSEUDO = "pseudo"
#: Pseudo label of the student alone.
PSEUDO_RAW = "pseudo_raw"
#: The answer of a model that a client has asked to keep (the host's name).
ORIGINAL = "original"

PSEUDO_TAGS = frozenset({PSEUDO, PSEUDO_RAW})
#: Tags whose labels the software made. They are replaced without history and never count as a human's work.
MACHINE_TAGS = PSEUDO_TAGS | {ORIGINAL}
