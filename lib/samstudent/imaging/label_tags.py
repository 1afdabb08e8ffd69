"""Tags of labels: kinds of labels of one case, and names of their folders ``labels/<tag>/``."""

from __future__ import annotations

#: Human label, used for training.
FINAL = "final"
#: Pseudo label of the student and SAM; its quality is in the label's info.
PSEUDO = "pseudo"
#: Pseudo label of the student alone.
PSEUDO_RAW = "pseudo_raw"
#: Output of a model, saved on request of a client (the host's name).
ORIGINAL = "original"

PSEUDO_TAGS = frozenset({PSEUDO, PSEUDO_RAW})
#: Tags of labels made by the software. They are replaced without history and never count as human labels.
MACHINE_TAGS = PSEUDO_TAGS | {ORIGINAL}
