"""Updates of the scores of active learning after a change of the served student or of the set of cases."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from monailabel.interfaces.datastore import Datastore

from samstudent.rounds.study import Study
from samstudent.server.jobs.runner import JobRunner

logger = logging.getLogger(__name__)


class ScoreUpdates:
    """Start of the scoring methods of one server.

    Args:
        study: study with the served student.
        datastore: cases to score.
        jobs: job runner of the server.
        methods: names of the scoring methods.
    """

    def __init__(self, study: Study, datastore: Datastore, jobs: JobRunner, methods: Collection[str]) -> None:
        self._study, self._datastore, self._jobs, self._methods = study, datastore, jobs, methods
        self._scored_for: object = None
        self._lock = threading.Lock()

    def update(self) -> None:
        """Start the scoring methods if something changed and no job is running. Raises nothing."""
        try:
            champion = self._study.ledger.champion()
            present = (champion.id if champion else None, len(self._datastore.list_images()))
            with self._lock:
                if present == self._scored_for or self._jobs.is_busy():
                    return
                self._scored_for = present
            for method in self._methods:
                self._jobs.start("scoring", {"method": method}, enqueue=True)
        except Exception:  # repeated by the timer
            logger.exception("the scores of active learning could not be updated")
