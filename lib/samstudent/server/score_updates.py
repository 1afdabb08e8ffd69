"""Updates of active learning's scores: where the served student or the set of cases has changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from monailabel.interfaces.datastore import Datastore

from samstudent.rounds.study import Study
from samstudent.server.jobs.runner import JobRunner

logger = logging.getLogger(__name__)


class ScoreUpdates:
    """Starts the scoring methods of one server.

    Args:
        study: whose champion predicts.
        datastore: whose cases are scored.
        jobs: of the server.
        methods: names of the scoring methods.
    """

    def __init__(self, study: Study, datastore: Datastore, jobs: JobRunner, methods: Collection[str]) -> None:
        self._study, self._datastore, self._jobs, self._methods = study, datastore, jobs, methods
        self._scored_for: object = None
        self._lock = threading.Lock()

    def update(self) -> None:
        """Have the scores computed anew if something changed and no job runs. Raises nothing."""
        try:
            champion = self._study.ledger.champion()
            present = (champion.id if champion else None, len(self._datastore.list_images()))
            with self._lock:
                if present == self._scored_for or self._jobs.is_busy():
                    return
                self._scored_for = present
            for method in self._methods:
                self._jobs.start("scoring", {"method": method}, enqueue=True)
        except Exception:  # the next look happens all the same
            logger.exception("The scores of active learning could not be refreshed")
