"""Initial weights that a person gives for a round: another round, another study's model, or weights of another program.

Weights that were trained on a case contain its label, and out-of-fold predictions with them would be biased. Students
on folds therefore start from given weights only where these are known to be trained on none of the labelled cases; the
other students of the round always start from them. Held-out cases on which the weights were trained leave the
comparison.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from samstudent.errors import NotFound, UserError
from samstudent.rounds.case_store import PreparedCase
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.trained import Trained, trained_of
from samstudent.student.network import build_network
from samstudent.student.start import load_start
from samstudent.task import Task
from samstudent.util.files import sha256_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartWeights:
    """Initial weights.

    Attributes:
        path: file with the weights (``student.start.load_start``).
        sha256: of the file.
        trained: training cases; None: not known. Of another study only the digests of the images, since ids are those
            of one study.
    """

    path: Path
    sha256: str
    trained: Trained | None = None

    def trained_on(self, cases: Iterable[PreparedCase]) -> str | None:
        """Sentence on why the weights may know labels of some cases; None: they do not."""
        if self.trained is None:
            return "it is not known on which cases they were trained"
        known = [case.id for case in cases if self.trained.case_of(case.id, case.content.image) is not None]
        return f"they were trained on {len(known)} of the labelled cases, e.g. {known[0]}" if known else None

    @property
    def note(self) -> str | None:
        """Remark on the comparison with the champion; None: none is needed."""
        if self.trained is not None:
            return None
        return (
            f"It is not known on which cases the initial weights {self.path.name} were trained; if held-out ones are "
            "among them, the comparison favours the new student"
        )

    def as_json(self) -> dict[str, str]:
        """Path and digest, for records."""
        return {"path": str(self.path), "sha256": self.sha256}


def find_start_weights(name: str, ledger: Ledger, folder: Path) -> StartWeights:
    """Initial weights by their name in a request.

    Args:
        name: id of a round of the study, path of a file, or name of a file in ``folder``.
        ledger: of the study that trains.
        folder: for files that are named without a path.

    Raises:
        NotFound: no such round or file.
    """
    if re.fullmatch(r"r\d{4,}", name):
        ledger.get(name)
        path = ledger.model_path(name)
    else:
        path = Path(name) if len(Path(name).parts) > 1 else folder / name
    if not path.is_file():
        raise NotFound(f"start: {path}: no such file; give a round, e.g. r0003, or a file in {folder}")
    digest = sha256_file(path)
    return StartWeights(path, digest, _trained(path, digest, ledger))


def check_start_weights(weights: StartWeights, task: Task) -> None:
    """Raise UserError if the weights do not fit the network of a task."""
    load_start(build_network(task), weights.path, task)


def _trained(path: Path, digest: str, ledger: Ledger) -> Trained | None:
    """Training cases of a model file in the folder of its round; None: it is not there."""
    path = path.resolve()
    source, round_id = Ledger(path.parents[2]) if len(path.parents) > 2 else None, path.parent.name
    if source is None or not re.fullmatch(r"r\d{4,}", round_id) or path != source.model_path(round_id):
        return None
    try:
        known = source.get(round_id).model_digest == digest and source.read_json(round_id, "inputs") is not None
        trained = trained_of(source, round_id) if known else None
    except UserError as error:
        logger.warning("%s: the record of its round cannot be read: %s", path, error)
        return None
    if trained is None or source.folder.resolve() == ledger.folder.resolve():
        return trained
    # Cases without a digest, of earlier versions, cannot be found in this study.
    return None if trained.ids - set(trained.images.values()) else Trained(frozenset(), trained.images)
