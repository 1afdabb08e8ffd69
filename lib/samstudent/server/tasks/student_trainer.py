"""The host's trainer task ``student``: one call is one round.

A round trains a challenger into its own folder, compares it with the champion on the hold-out, and points the ledger at
it if it is not worse. The served file is never written to, so it remains complete if the process is killed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from dataclasses import replace
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from samstudent.errors import Conflict
from samstudent.pseudolabels.case_labeller import OnCase
from samstudent.rounds.fair import table_of
from samstudent.rounds.options import CHOICES, TrainOptions
from samstudent.rounds.run_round import TRAINING_STEP, RoundResult, run_round
from samstudent.rounds.start_weights import StartWeights, check_start_weights, find_start_weights
from samstudent.rounds.study import Study
from samstudent.server.tasks.study_round import StudyRound
from samstudent.student.training import EPOCH_STEPS, epochs_of
from samstudent.util.files import atomic_write
from samstudent.util.progress import Progress, Report, log_progress

logger = logging.getLogger(__name__)

#: File of the training statistics for 3D Slicer, with the host's name.
STATS_FILE = "train_stats.json"


class StudentTrainTask(TrainTask):  # type: ignore[misc]
    """Training of the student on human labels and pseudo labels of one study, on the device of the request.

    The engine is MONAI's (ignite), in ``student.training``; the round is ``rounds.run_round``.

    Args:
        study: the study.
        on_case: called with each new refined pseudo label.
        report: receiver of the progress.
    """

    def __init__(self, study: Study, on_case: OnCase | None = None, report: Report = log_progress) -> None:
        super().__init__(f"Trains the student for {study.task.name} on human labels and SAM's pseudo labels")
        self.study, self.on_case, self.report = study, on_case, report

    def config(self) -> dict[str, Any]:
        """Options that clients display and send with the request."""
        training = self.study.task.training
        return {
            "max_epochs": epochs_of(training.steps),
            "pseudo_labels": list(CHOICES),
            "promote": True,
            "seed": training.seed,
            "device": device_list(),
        }

    def info(self) -> dict[str, Any]:
        """The host's description of the task."""
        return {**super().info(), "labels": self.study.task.names}

    def stats(self) -> dict[str, Any]:
        """What Slicer shows of the last training: epochs, time, and the mean Dice of the served model."""
        path = self.study.folder / STATS_FILE
        stats: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
        return stats

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Run a round and return its result for the host and its clients.

        Raises:
            Conflict: nothing is labelled that may train.
            UserError: a value in the request is not allowed.
        """
        task, ledger = self.study.task, self.study.ledger
        options, train_ids, held_ids = self.plan(request, datastore)
        device = str(name_to_device(request.get("device") or device_list()[0]))
        weights = self._start_weights(options)
        round_options = replace(options.round_options(task, device), weights=weights, ablations=self.study.ablations)
        digest = hashlib.sha256(task.model_dump_json().encode()).hexdigest()
        fields = {"seed": round_options.seed, "steps": round_options.steps, "start": weights and weights.as_json()}
        with ledger.run(options.reason, task_digest=digest, holdout_ids=held_ids, **fields) as round_id:
            store = StudyRound(self.study, datastore, round_id, self.on_case)
            store.drop_replaced(datastore.list_images())
            follow = _Follower(self, round_id)
            cases = store.round_cases(train_ids, held_ids)
            result = run_round(cases, task, round_options, store=store, report=follow)
            stats = self._conclude(round_id, options, result)
            if round_options.pseudo_labels == "renew":  # other rounds do not use all cases
                store.prune(follow.started)
            return stats

    def plan(self, request: dict[str, Any], datastore: Any) -> tuple[TrainOptions, list[str], list[str]]:
        """Check a request before a round is opened: its options, the cases that train, those of the hold-out.

        Raises as ``__call__``; also called by the server, to refuse a request that could only fail in the job.
        """
        options = TrainOptions.of(request, self.study.task)
        if (weights := self._start_weights(options)) is not None:
            check_start_weights(weights, self.study.task)
        labelled = datastore.get_labeled_images()
        self.study.holdout.extend(datastore.list_images(), labelled)
        train_ids, held_ids = self.study.holdout.split(labelled)
        if not train_ids:
            held = f"; the {len(held_ids)} labelled so far are kept to compare models" if held_ids else ""
            raise Conflict(f"nothing to train on: no case is labelled by a human{held}. Label one and train again")
        return options, train_ids, held_ids

    def _start_weights(self, options: TrainOptions) -> StartWeights | None:
        if options.start is None:
            return None
        return find_start_weights(options.start, self.study.ledger, self.study.weights_folder)

    def _conclude(self, round_id: str, options: TrainOptions, result: RoundResult) -> dict[str, Any]:
        """Write the outcome into the ledger, and serve the new student if it may be."""
        ledger, names, compared = self.study.ledger, self.study.task.names, result.compared
        promote, why = compared.decision.promote, compared.decision.why
        if promote and not options.promote:
            promote, why = False, f"not promoted, as requested; else: {why}"
        challenger, champion = (table_of(found, names) if found else None for found in compared.dice)
        ledger.update(
            round_id,
            dice={"challenger": challenger, "champion": champion},
            comparison=compared.comparison.as_json() if compared.comparison else None,
            accumulated_loss=compared.decision.accumulated_loss,
            decision=why,
            not_compared=compared.not_compared,
            train_dice=None if math.isnan(result.train_dice) else result.train_dice,
        )
        if promote:
            ledger.promote(round_id, who="training", why=why)
        logger.info("round %s: %s", round_id, why)
        stats = self.stats() | {"round": round_id, "promoted": promote, "decision": why}
        if challenger is not None:
            stats["best_metric"] = _number(challenger["mean"])
        self.write_stats(stats)
        return stats

    def served_dice(self) -> float:
        """Mean Dice of the served model; Slicer needs a number, so 0 before there is one."""
        champion = self.study.ledger.champion()
        return _number(((champion.dice.get("challenger") if champion else None) or {}).get("mean"))

    def write_stats(self, stats: dict[str, Any]) -> None:
        atomic_write(self.study.folder / STATS_FILE, json.dumps(stats, indent=1))


class _Follower:
    """Report of a round that also writes the training's step to the ledger and its epochs to the stats."""

    def __init__(self, trainer: StudentTrainTask, round_id: str) -> None:
        self.trainer, self.round_id = trainer, round_id
        self.started, self.epoch = time.time(), 0

    def __call__(self, progress: Progress) -> None:
        self.trainer.report(progress)
        if progress.step != TRAINING_STEP:
            return
        self.trainer.study.ledger.update(self.round_id, step=progress.done)
        # The last epoch may be shorter.
        ended = progress.done == progress.total
        epoch = epochs_of(progress.done) if ended else progress.done // EPOCH_STEPS
        if epoch > self.epoch:
            self.epoch = epoch
            passed = time.strftime("%H:%M:%S", time.gmtime(time.time() - self.started))
            stats: dict[str, Any] = {"epoch": epoch, "total_epochs": epochs_of(progress.total or progress.done)}
            stats |= {"start_ts": int(self.started), "total_time": passed}
            self.trainer.write_stats(stats | {"best_metric": self.trainer.served_dice()})


def _number(value: float | None) -> float:
    return float(value) if value is not None and value == value else 0.0
