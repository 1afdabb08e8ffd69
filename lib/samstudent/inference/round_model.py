"""Model of a round: its student, and SAM with the round's policy. Both are loaded once for any number of images."""

from __future__ import annotations

from functools import cached_property

from samstudent.imaging.case import CaseImage
from samstudent.inference.prediction import Origin, Prediction, refined_structures, structures_of
from samstudent.inference.round_choice import model_of
from samstudent.inference.round_refiner import RoundRefiner
from samstudent.rounds.study import Study
from samstudent.sam.cache import EmbeddingCache
from samstudent.student.predict import Student, binarize


class RoundModel:
    """Student of a round. Its masks are those of the server's models ``student`` and ``student+sam``.

    Args:
        study: the study.
        round_id: the round.
        student: its student.
        cache: stores SAM's embeddings; None: that of the study.
    """

    def __init__(self, study: Study, round_id: str, student: Student, cache: EmbeddingCache | None = None) -> None:
        self.study, self.round_id, self.student = study, round_id, student
        self._cache = study.embeddings if cache is None else cache

    @classmethod
    def load(
        cls,
        study: Study,
        round_id: str | None = None,
        *,
        device: str | None = None,
        cache: EmbeddingCache | None = None,
    ) -> RoundModel:
        """Load the student of a round; SAM is loaded at the first refinement.

        Args:
            study: the study.
            round_id: e.g. "r0004"; None: the served round.
            device: "cpu", "cuda" or "cuda:<number>"; None: the best of this machine.
            cache: see the class.

        Raises:
            Conflict: no round is served; the round did not end; its student has other structures than the task.
            NotFound: no such round, or its model file is gone.
            UserError: the model file is damaged, or does not fit the task as it is now.
        """
        path = model_of(study.ledger, study.task.name, round_id)
        return cls(study, path.parent.name, Student.load(path, study.task, device), cache)

    @cached_property
    def refiner(self) -> RoundRefiner:
        """SAM with the recipes of this round."""
        return RoundRefiner.of(self.study, self.round_id, self._cache)

    def predict(self, image: CaseImage, *, refine: bool = False) -> Prediction:
        """Masks of an image.

        Args:
            image: the image.
            refine: SAM refines the student's masks; only then there are estimates of their quality.
        """
        task, probabilities = self.study.task, self.student.predict(image)
        if not refine:
            masks, origin = binarize(probabilities, task), Origin(self.round_id, self.student.version)
            return Prediction(masks, structures_of(masks, task), image.grid, task, origin, image.path)
        refiner = self.refiner
        refinement = refiner.refine(probabilities, image)
        structures = refined_structures(refinement, task, refiner.estimates(refinement, probabilities))
        origin = Origin(self.round_id, self.student.version, refiner.facts)
        return Prediction(refinement.masks, structures, image.grid, task, origin, image.path)
