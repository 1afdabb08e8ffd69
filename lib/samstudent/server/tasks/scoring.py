"""Predictions of student and SAM on one image, for the scoring methods of active learning."""

from __future__ import annotations

import hashlib
import time

import numpy as np
from numpy.typing import NDArray

from samstudent.active_learning.scores import disagreement_score, entropy_score
from samstudent.imaging.case import CaseImage, for_sam, read_image
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.pseudolabels.provenance import provenance_of
from samstudent.rounds.round_record import RoundRecord
from samstudent.rounds.study import Study
from samstudent.sam.refiner import Refiner
from samstudent.student.predict import Student


class CaseScorer:
    """Champion and SAM for scoring, loaded once and on demand."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._student: Student | None = None
        #: Id of the champion that was last checked, and whether it fits the task.
        self._checked: tuple[str, bool] | None = None

    def version(self) -> str | None:
        """Digest of champion, SAM and recipe, on which entropy and disagreement depend.

        None without a champion that fits the task.
        """
        champion = self.study.ledger.champion()
        if champion is None or not self._fits(champion):
            return None
        task = self.study.task
        settings = f"{champion.model_digest} {task.sam.model_dump_json()} {task.recipe.model_dump_json()}"
        settings += f" {self.study.active_model}"
        return hashlib.sha256(settings.encode()).hexdigest()

    def _fits(self, champion: RoundRecord) -> bool:
        """Whether the champion fits the current task; checked once for each champion."""
        if self._checked is None or self._checked[0] != champion.id:
            found = self.study.load_champion("cpu")
            self._checked = (champion.id, found is not None)
        return self._checked[1]

    def keep_scores(self, case: str, image: CaseImage, label: PseudoLabel) -> None:
        """Store the scores of a new pseudo label, if it was generated as by ``predict``: with the champion, the task's
        recipe and the active SAM. With a recipe that a round has selected, scores differ."""
        version, state, champion = self.version(), self.study.selection, self.study.ledger.champion()
        if version is None or champion is None or label.provenance.student != champion.model_digest:
            return
        if label.provenance != provenance_of(label.provenance.student, self.study.sam(), self.study.task):
            return
        entropy = entropy_score(label.probabilities, self.study.task.overlap)
        state.put_scores("entropy", {case: entropy}, version)
        disagreement = disagreement_score(s.agreement for s in label.structures)
        state.put_scores("disagreement", {case: disagreement}, version)

    def vector_version(self) -> str:
        """Digest of the image encoder."""
        return self.study.sam().embedding_digest

    def predict(self, path: str) -> tuple[NDArray[np.float32], list[float | None]]:
        """Probabilities float32 (S, *spatial), and SAM's agreement with each of the S coarse masks."""
        self._wait_for_rounds()
        image = self._read(path)
        probabilities = self._champion().predict(image)
        task = self.study.task
        refiner = Refiner.for_task(task, self.study.sam(), self.study.embeddings)
        result = refiner.refine(probabilities, for_sam(image, task.image), image.grid.spacing)
        return probabilities, [structure.agreement for structure in result.structures]

    def embed(self, path: str) -> NDArray[np.float32]:
        """SAM's embedding averaged over the image, float32 (D,); of a volume over every eighth slice and the image."""
        self._wait_for_rounds()
        pixels = for_sam(self._read(path), self.study.task.image)
        # Neighbouring slices are similar, and the encoder is slow.
        slices = [pixels] if pixels.ndim == 3 else list(pixels[len(pixels) // 16 :: 8])
        sam, cache = self.study.sam(), self.study.embeddings
        vectors = [cache.embed(sam, np.ascontiguousarray(s)).pooled() for s in slices]
        return np.mean(vectors, axis=0, dtype=np.float32)

    def _wait_for_rounds(self) -> None:
        """Wait for a running round, which has priority, and which computes many scores itself."""
        while self.study.ledger.running() is not None:
            time.sleep(2)

    def _champion(self) -> Student:
        if self._student is None:
            path = self.study.ledger.champion_path()
            assert path is not None  # version() said that there is one
            self._student = Student.load(path, self.study.task)
        return self._student

    def _read(self, path: str) -> CaseImage:
        return read_image(path, self.study.task.dimension)
