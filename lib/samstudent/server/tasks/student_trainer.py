"""The host's trainer task ``student``: one call is one round.

A round trains a challenger into its own folder, compares it with the champion on the hold-out, and points the ledger at
it if it is not worse. The served file is never written to, so a kill at any moment leaves it whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ignite.engine.events import Events
from monai.engines.trainer import SupervisedTrainer
from monai.inferers.inferer import SimpleInferer
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from monailabel.utils.others.generic import device_list, name_to_device

from samstudent.errors import Conflict
from samstudent.pseudolabels.out_of_fold import spread_out
from samstudent.pseudolabels.produce import OnCase
from samstudent.rounds.cases import CaseFiles, digests, human_cases, load_cases
from samstudent.rounds.fair import compare_fairly, decide, table_of
from samstudent.rounds.learning import Report
from samstudent.rounds.ledger import RoundRecord
from samstudent.rounds.options import CHOICES, TrainOptions
from samstudent.rounds.round_cases import Gathered, RoundCases, champion_of, keep_scores
from samstudent.rounds.scoring import MOST_REMEMBERED, CaseDice, compare, fit_of, not_learnt, readable_truths
from samstudent.rounds.study import Study
from samstudent.rounds.trained import Trained, images_of, trained_of, under_ids
from samstudent.student.data import TrainingCase, make_loader
from samstudent.student.loss import StudentLoss
from samstudent.student.predict import Student, save_model
from samstudent.student.training import (
    make_trainer,
    network_to_save,
    new_average,
    new_network,
    new_optimizer,
    split_steps,
)
from samstudent.util.files import atomic_write, sha256_file
from samstudent.util.progress import Progress, log_progress

logger = logging.getLogger(__name__)

#: Of which a round's record keeps the version.
PACKAGES = ("samstudent", "monai", "monailabel", "numpy")
WHO = ("challenger", "champion")
#: Cases that a decision names, at most.
_NAMED = 10


class StudentTrainTask(BasicTrainTask):  # type: ignore[misc]
    """Trains on human labels and pseudo labels of one study.

    The frame is the host's (request, child process, device, several GPUs, MONAI's engine); data, network, loss and step
    are those of ``student.training``.
    """

    def __init__(self, study: Study, on_case: OnCase | None = None) -> None:
        super().__init__(
            model_dir=str(study.folder),
            description=f"Trains the student for {study.task.name} on human labels and SAM's pseudo labels",
            labels=study.task.names,
            # E3: the host's default tracker, MLflow with files, no longer exists.
            tracking=None,
        )
        self.study = study
        self.on_case = on_case
        self.task = study.task
        self.ledger = study.ledger
        self._config = {
            "max_epochs": split_steps(study.task.training.steps)[0],
            "pseudo_labels": list(CHOICES),
            "promote": True,
            "seed": study.task.training.seed,
            "device": device_list(),
            "multi_gpu": True,
            "tracking": ["None"],
        }

    def __getstate__(self) -> dict[str, Any]:
        """The host hands the task to one process per GPU; those only train, the study stays with the first."""
        return self.__dict__ | {"study": None, "on_case": None}

    # ---- one round ----

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Run a round and return what the host and its clients read of one.

        Raises:
            Conflict: nothing is labelled that may train.
            UserError: a value in the request is not allowed.
        """
        options, train_ids, held_ids = self.plan(request, datastore)
        epochs, epoch_steps = options.epochs(self.task)
        digest = hashlib.sha256(self.task.model_dump_json().encode()).hexdigest()
        fields = {"seed": options.seed, "steps": epochs * epoch_steps}
        with self.ledger.run(options.reason, task_digest=digest, holdout_ids=held_ids, **fields) as round_id:
            frame = {"max_epochs": epochs, "epoch_steps": epoch_steps, "name": str(self.ledger.folder_of(round_id))}
            frame |= {"round": round_id, "train_ids": train_ids, "held_ids": held_ids}
            frame |= {"options": options.model_dump()}
            host = {"device": request.get("device") or self._config["device"]}
            host |= {"multi_gpu": request.get("multi_gpu", True), "gpus": request.get("gpus", "all")}
            host |= {"train_batch_size": 1, "val_batch_size": 1, "pretrained": True}
            host |= {"dataset": "Dataset", "dataloader": "DataLoader", "tracking": "None", "model": "student"}
            super().__call__(host | frame, datastore)
            return self._conclude(round_id, options, held_ids, host["device"], datastore)

    def plan(self, request: dict[str, Any], datastore: Any) -> tuple[TrainOptions, list[str], list[str]]:
        """Check a request before a round is opened: its options, the cases that train, those of the hold-out.

        Raises as ``__call__``; also called by the server, to refuse a request that could only fail in the child.
        """
        options = TrainOptions.of(request, self.task)
        labelled = datastore.get_labeled_images()
        self.study.holdout.extend(datastore.list_images(), labelled)
        train_ids, held_ids = self.study.holdout.split(labelled)
        if not train_ids:
            kept = f"; the {len(held_ids)} labelled so far are kept to compare models" if held_ids else ""
            raise Conflict(f"nothing to train on: no case is labelled by a human{kept}. Label one and train again")
        return options, train_ids, held_ids

    def _conclude(
        self, round_id: str, options: TrainOptions, held_ids: list[str], device: Any, datastore: Any
    ) -> dict[str, Any]:
        """Compare the challenger with the champion, decide, and serve it if it may be."""
        log_progress(Progress("comparing on the hold-out", message=f"{len(held_ids)} cases"))
        target = str(name_to_device(device))
        challenger = Student.load(self.ledger.model_path(round_id), self.task, target)
        served = champion_of(self.ledger, self.task, target)
        students = [challenger] if served is None else [challenger, served[1]]
        left_out: dict[str, str] = {}
        held = human_cases(datastore, held_ids, left_out)
        trained = self._trained_on(
            held, {"this round": round_id} | ({"champion": served[0].parent.name} if served else {})
        )
        fresh = [case for case in held if case.id not in trained]
        scores: list[CaseDice] = [*compare(students, fresh, self.task, left_out), {}][:2]
        kept = self.ledger.kept(round_id, "scores") or {}
        comparison, debt = None, 0.0
        if served is not None:
            champion = self.ledger.get(served[0].parent.name)
            comparison = compare_fairly(
                scores[0],
                scores[1],
                self.task.names,
                challenger_folds=kept.get("folds"),
                champion_folds=self._folds_of(champion.id, round_id),
                seed=options.seed,
            )
            debt = champion.debt
        decision = decide(comparison, champion=served is not None, debt=debt, trained_on=len(trained))
        why = decision.why
        if decision.promote and not options.promote:
            why = f"not promoted, as asked for; else: {why}"
        fit = self._fit(challenger, self.ledger.get(round_id), datastore)
        for told in (kept.get("skip_reason"), not_learnt(fit), *_not_compared(trained, left_out)):
            why = f"{why}. {told}" if told else why
        keep_scores(self.ledger, self.task, round_id, **dict(zip(WHO, scores, strict=True)))
        tables = [table_of(found, self.task.names) if found else None for found in scores]
        self.ledger.update(
            round_id,
            dice=dict(zip(WHO, tables, strict=True)),
            comparison=comparison.as_json() if comparison else None,
            debt=decision.debt,
            decision=why,
            not_compared=trained | left_out,
            fit=None if math.isnan(fit) else fit,
        )
        promoted = decision.promote and options.promote
        if promoted:
            self.ledger.promote(round_id, who="training", why=why)
        logger.info("round %s: %s", round_id, why)
        stats: dict[str, Any] = self.stats() | {"round": round_id, "promoted": promoted, "decision": why}
        if tables[0] is not None:
            stats["best_metric"] = _number(tables[0]["mean"])
        self._write_stats(stats)
        return stats

    def _fit(self, challenger: Student, record: RoundRecord, datastore: Any) -> float:
        """``fit_of`` some of the round's labels; nan where none can be read any more."""
        there = human_cases(datastore, set(record.labels_used) & set(datastore.get_labeled_images()))
        known = readable_truths(spread_out(there, MOST_REMEMBERED), self.task)
        return fit_of(challenger, ((image, truth) for _, image, truth in known), self.task)

    def _trained_on(self, held: list[CaseFiles], rounds: dict[str, str]) -> dict[str, str]:
        """Hold-out cases that cannot tell which student is better, as one trained on them: case id -> who, for people.

        Args:
            rounds: what a student is called -> the round in which it trained.
        """
        trained = {who: trained_of(self.ledger, round_id) for who, round_id in rounds.items()}
        found = {}
        for case in held:
            digest = self.study.contents.of(case.image)
            told = []
            for who, known in trained.items():
                if (id := known.case_of(case.id, digest)) is not None:
                    told.append(f"{who} ({rounds[who]}){'' if id == case.id else f' as {id}'}")
            if told:
                found[case.id] = f"trained on by {' and '.join(told)}"
        return found

    def _folds_of(self, champion: str, round_id: str) -> dict[str, Any] | None:
        """The champion's scores by cross-validation, under the ids that the images have in this round."""
        scores = (self.ledger.kept(champion, "scores") or {}).get("folds")
        theirs, ours = (images_of(self.ledger.kept(id, "inputs") or {}) for id in (champion, round_id))
        return under_ids(scores, theirs, ours) if scores else None

    # ---- data ----

    def pre_process(self, request: dict[str, Any], datastore: Any) -> list[CaseFiles]:
        """The cases of this round; its record and its inputs tell which."""
        round_id, options = request["round"], TrainOptions.model_validate(request["options"])
        gathered = RoundCases(
            self.study, datastore, round_id, options, request["train_ids"], request["held_ids"],
            steps=request["max_epochs"] * request["epoch_steps"], device=str(name_to_device(request["device"])),
            on_case=self.on_case,
        ).gather()  # fmt: skip
        self.ledger.update(round_id, pseudo_used=gathered.used, unreadable=gathered.left_out)
        start = self._start(gathered)
        request["start"] = str(start) if start else None
        self._keep_inputs(request, options, gathered)
        return gathered.cases

    def _start(self, gathered: Gathered) -> Path | None:
        """The model file that the challenger goes on from; None: fresh weights. See ``training.start``."""
        if self.task.training.start == "labels":
            return gathered.whole
        # A champion that does not fit the task as it is now is no start; ``champion_of`` has logged why.
        served = champion_of(self.ledger, self.task, "cpu") if self.task.training.start == "champion" else None
        return served[0] if served else None

    def _keep_inputs(self, request: dict[str, Any], options: TrainOptions, gathered: Gathered) -> None:
        """Write down all that the challenger depends on, so that the round can be repeated; paths from its folder."""
        made_with, learnt_in = gathered.made_with, gathered.learnt_in
        elsewhere = "" if learnt_in == request["round"] else f"../{learnt_in}/"
        cases, contents = digests(gathered.cases), self.study.contents
        for case in gathered.cases:
            cases[case.id]["image"] = contents.of(case.image)
        inherited = Trained()
        if self.task.training.start == "champion" and request["start"]:
            inherited = trained_of(self.ledger, Path(request["start"]).parent.name)
        content = {
            "task": self.task.model_dump(mode="json"),
            "options": options.model_dump(mode="json"),
            "steps": request["max_epochs"] * request["epoch_steps"],
            "cases": cases,
            "inherited": inherited.as_json(),
            "pseudo_labels_made_with": made_with.as_json() if made_with else None,
            "adapted_sam": self.study.sam_in_force,
            "policy": f"{elsewhere}policy/policy.json" if learnt_in else None,
            "start": sha256_file(Path(request["start"])) if request["start"] else None,
            # Torch's own word: its metadata does not tell CUDA from CPU builds.
            "packages": {name: version(name) for name in PACKAGES} | {"torch": torch.__version__},
            "python": platform.python_version(),
            "device": str(request["device"]),
            "threads": torch.get_num_threads(),
        }
        self.ledger.keep(request["round"], "inputs", content)

    def partition_datalist(self, context: Context, shuffle: bool = False) -> tuple[list[CaseFiles], list[CaseFiles]]:
        """All cases train; the hold-out is never among them. The host's own split drifts as labels arrive."""
        return context.datalist, []

    def train_data_loader(self, context: Context, num_workers: int = 0, shuffle: bool = True) -> Any:
        def progress(number: int, total: int) -> None:
            if number % 20 == 0 or number == total:
                log_progress(Progress("reading cases", number, total))

        cases, unreadable = load_cases(context.train_datalist, self.task, progress)
        if context.local_rank == 0:
            self._record_used(context.request["round"], cases, unreadable)
        # Every GPU draws batches of its own from all cases.
        seed = context.request["options"]["seed"] + context.local_rank
        return make_loader(cases, self.task, context.request["epoch_steps"], seed)

    def _record_used(self, round_id: str, cases: list[TrainingCase], unreadable: dict[str, str]) -> None:
        """Write down what really trains: files may have been damaged or removed since the cases were gathered."""
        record = self.ledger.get(round_id)
        human = sorted(case.id for case in cases if case.human)
        pseudo = record.pseudo_used.model_copy(update={"n": len(cases) - len(human)})
        self.ledger.update(
            round_id,
            labels_used=human,
            pseudo_used=pseudo.model_dump() if pseudo.n else {"n": 0},
            unreadable=record.unreadable | unreadable,
        )
        told = f", of which it learns {pseudo.taught}" if pseudo.n else ""
        logger.info("round %s: %d human labels, %d pseudo labels%s", round_id, len(human), pseudo.n, told)

    # ---- the parts the host asks for ----

    def network(self, context: Context) -> torch.nn.Module:
        start = context.request["start"]
        return new_network(self.task, context.request["options"]["seed"], Path(start) if start else None)

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        return new_optimizer(context.network, self.task)

    def loss_function(self, context: Context) -> StudentLoss:
        return StudentLoss(self.task.overlap)

    def train_pre_transforms(self, context: Context) -> None:
        """The cases are prepared and augmented by ``student.data``."""

    def train_post_transforms(self, context: Context) -> None:
        """Nothing is measured on what is being trained on."""

    def val_inferer(self, context: Context) -> SimpleInferer:
        return SimpleInferer()

    def _create_trainer(self, context: Context) -> SupervisedTrainer:
        """MONAI's trainer without the host's handlers, which keep the best on the training set."""

        def record(step: int) -> None:
            self.ledger.update(context.request["round"], step=step)

        report = Report(record=record) if context.local_rank == 0 else None
        context.average = new_average(_inner(context.network), self.task)
        return make_trainer(
            context.network,
            context.optimizer,
            self.train_data_loader(context),
            self.task,
            context.max_epochs,
            context.request["epoch_steps"],
            context.device,
            report,
            context.average,
        )

    def finalize(self, context: Context) -> None:
        """Instead of publishing: write the last weights into the round's folder, at once, when training has ended."""
        if context.local_rank != 0:
            return
        round_id, task = context.request["round"], self.task

        def save() -> None:
            network = network_to_save(_inner(context.network), context.average, task)
            digest = save_model(self.ledger.model_path(round_id), network, task)
            self.ledger.update(round_id, model_digest=digest, step=context.trainer.state.iteration)

        def stats() -> None:
            state = context.trainer.state
            passed = time.strftime("%H:%M:%S", time.gmtime(time.time() - context.start_ts))
            content = {"epoch": state.epoch, "total_epochs": state.max_epochs, "start_ts": int(context.start_ts)}
            self._write_stats(content | {"total_time": passed, "best_metric": self._served_dice()})

        context.trainer.add_event_handler(Events.COMPLETED, save)
        context.trainer.add_event_handler(Events.EPOCH_COMPLETED, stats)

    # ---- what Slicer shows ----

    def _served_dice(self) -> float:
        """Mean Dice of the served model; Slicer needs a number, so 0 before there is one."""
        champion = self.ledger.champion()
        return _number(((champion.dice.get("challenger") if champion else None) or {}).get("mean"))

    def _write_stats(self, stats: dict[str, Any]) -> None:
        atomic_write(Path(self._stats_path), json.dumps(stats, indent=1))


def _not_compared(trained: dict[str, str], left_out: dict[str, str]) -> list[str]:
    """For the decision: which hold-out cases took no part. The record has the reason of each."""
    told = []
    for cases, why in ((trained, "as a student trained on them"), (left_out, "as they cannot be read")):
        if cases:
            more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
            told.append(f"Hold-out cases left out of the comparison, {why}: {', '.join(list(cases)[:_NAMED])}{more}")
    return told


def _inner(network: torch.nn.Module) -> torch.nn.Module:
    """The network inside of DistributedDataParallel."""
    inner: torch.nn.Module = getattr(network, "module", network)
    return inner


def _number(value: float | None) -> float:
    return float(value) if value is not None and value == value else 0.0
