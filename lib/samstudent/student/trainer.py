"""The host's trainer task ``student``: one call is one round.

A round trains a challenger into its own folder, compares it with the champion on the hold-out, and points the ledger at
it if it is not worse. The served file is never written to, so a kill at any moment leaves it whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ignite.engine.events import Events
from monai.engines.trainer import SupervisedTrainer
from monai.inferers.inferer import SimpleInferer
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from monailabel.utils.others.generic import device_list, name_to_device

from samstudent.errors import Conflict, UserError
from samstudent.files import atomic_write
from samstudent.images import CaseImage
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.pseudolabels.labelled import spread_out
from samstudent.pseudolabels.produce import RAW_TAG, REFINED_TAG, OnCase, made_with, produce
from samstudent.pseudolabels.provenance import Provenance
from samstudent.pseudolabels.softs import SoftLabels
from samstudent.pseudolabels.trust import ADAPTED_FILE, Trust
from samstudent.rounds.fair import MIN_HELD, compare_fairly, decide, table_of
from samstudent.rounds.ledger import RoundRecord
from samstudent.sam.backends import SamBackend
from samstudent.serving import children
from samstudent.serving.study import Study
from samstudent.student.cases import CaseFiles, digests, human_cases, load_cases, pseudo_cases
from samstudent.student.compare import (
    MOST_REMEMBERED,
    CaseDice,
    compare,
    fit_of,
    not_learnt,
    out_of_fold,
    readable_truths,
)
from samstudent.student.data import make_loader
from samstudent.student.learning import Report, add_earlier, fit_folds, learn
from samstudent.student.loss import StudentLoss
from samstudent.student.options import CHOICES, TrainOptions
from samstudent.student.predict import Student, save_model
from samstudent.student.teacher import Teacher
from samstudent.student.training import (
    make_trainer,
    network_to_save,
    new_average,
    new_network,
    new_optimizer,
    split_steps,
)

logger = logging.getLogger(__name__)

#: Of which a round's record keeps the version.
PACKAGES = ("samstudent", "monai", "monailabel", "numpy")
WHO = ("challenger", "champion")


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
        fields = {"seed": options.seed, "steps": epochs * epoch_steps, "labels_used": train_ids}
        with self.ledger.run(options.reason, task_digest=digest, holdout_ids=held_ids, **fields) as round_id:
            _leave_room_for_the_server()
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
        logger.info("round %s: comparing on %d hold-out cases", round_id, len(held_ids))
        target = str(name_to_device(device))
        challenger = Student.load(self.ledger.model_path(round_id), self.task, target)
        served = self._champion(target)
        students = [challenger] if served is None else [challenger, served[1]]
        scores: list[CaseDice] = [*compare(students, human_cases(datastore, held_ids), self.task), {}][:2]
        kept = self.ledger.kept(round_id, "scores") or {}
        comparison, debt = None, 0.0
        if served is not None:
            champion = self.ledger.get(served[0].parent.name)
            comparison = compare_fairly(
                scores[0],
                scores[1],
                self.task.names,
                challenger_folds=kept.get("folds"),
                champion_folds=(self.ledger.kept(champion.id, "scores") or {}).get("folds"),
                seed=options.seed,
            )
            debt = champion.debt
        decision = decide(comparison, champion=served is not None, debt=debt)
        why = decision.why
        if decision.promote and not options.promote:
            why = f"not promoted, as asked for; else: {why}"
        fit = self._fit(challenger, self.ledger.get(round_id), datastore)
        for told in (kept.get("silence"), not_learnt(fit)):
            why = f"{why}. {told}" if told else why
        self._keep_scores(round_id, **dict(zip(WHO, scores, strict=True)))
        tables = [table_of(found, self.task.names) if found else None for found in scores]
        self.ledger.update(
            round_id,
            dice=dict(zip(WHO, tables, strict=True)),
            comparison=comparison.as_json() if comparison else None,
            debt=decision.debt,
            decision=why,
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
        known = readable_truths(spread_out(there, MOST_REMEMBERED), self.task, "labelled case %s is not asked: %s")
        return fit_of(challenger, ((image, truth) for _, image, truth in known), self.task)

    def _keep_scores(self, round_id: str, **scores: Mapping[str, Any] | str) -> None:
        """Add to what is kept of a round: Dice of each case and structure, by whom; how ``earlier`` students do."""
        kept = self.ledger.kept(round_id, "scores") or {"structures": self.task.names}
        self.ledger.keep(round_id, "scores", kept | scores)

    def _champion(self, device: str) -> tuple[Path, Student] | None:
        """The served model's file, in the folder of its round, and the student in it; None if there is none, or none
        that could predict for the task as it is now.

        Both by one look at the ledger: somebody may promote another round at any moment.
        """
        path = self.ledger.champion_path()
        if path is None:
            return None
        try:
            return path, Student.load(path, self.task, device)
        except UserError as error:
            logger.warning("the served model is left out: %s", error)
            return None

    # ---- data ----

    def pre_process(self, request: dict[str, Any], datastore: Any) -> list[CaseFiles]:
        """The cases of this round: human labels, and the pseudo labels that were asked for and are up to date."""
        options = TrainOptions.model_validate(request["options"])
        cases = human_cases(datastore, request["train_ids"])
        tag = RAW_TAG if options.pseudo_labels == "raw" else REFINED_TAG
        teacher, trust, learnt_in = self._teacher(request, options, cases, datastore)
        wanted: list[Provenance] = []
        # A champion that the hold-out listens to has shown that it knows something.
        unheard = isinstance(teacher, Teacher) and not teacher.heard
        silence = trust.silence if trust is not None and unheard else None
        if silence is not None:
            logger.warning("round %s: %s", request["round"], silence)
            self._keep_scores(request["round"], silence=silence)
        elif teacher is not None:
            wanted = self._wanted(request["round"], options, teacher, trust)
            if options.pseudo_labels != "use":
                self._produce(options, teacher, trust, datastore)
        elif options.pseudo_labels != "off":
            logger.info("no student is served yet: this round trains on human labels alone")
        trainable = self.study.holdout.trainable(datastore.list_images())
        softs = self._softs() if tag == REFINED_TAG else None
        withheld = self.study.reviews.withheld()
        found = [pseudo_cases(datastore, trainable, tag, made, self.task, softs, withheld) for made in wanted]
        pseudo = max(found, key=len, default=[])
        taught = "probabilities" if any(case.soft for case in pseudo) else "masks"
        used = {"n": len(pseudo), "tag": tag, "taught": taught} if pseudo else {"n": 0}
        self.ledger.update(request["round"], pseudo_used=used)
        made = wanted[found.index(pseudo)] if pseudo else None
        # Those that are there may have been made by what another round had learnt.
        learnt_in = learnt_in if made is None or made == wanted[0] else None
        self._keep_inputs(request, options, cases + pseudo, made, learnt_in)
        told = (request["round"], len(cases), len(pseudo), taught)
        logger.info("round %s: %d human labels, %d pseudo labels, of which it learns %s", *told)
        return cases + pseudo

    def _teacher(
        self, request: dict[str, Any], options: TrainOptions, files: list[CaseFiles], datastore: Any
    ) -> tuple[Student | Teacher | None, Trust | None, str | None]:
        """Who predicts the unlabelled cases, and how far to trust it: students on folds of the labelled cases, whose
        predictions of these are honest, and the champion as far as the hold-out listens to it; with too few labels for
        that, and for the other choices, the champion, by what its own round learnt.

        The students on folds are trained for a small hold-out, too: their scores take part in the comparison.

        Returns:
            Both, and the round in whose folder lies what was learnt; each None where there is none.
        """
        device, renew = str(name_to_device(request["device"])), options.pseudo_labels == "renew"
        cross = None
        if renew or len(request["held_ids"]) < MIN_HELD:
            steps = request["max_epochs"] * request["epoch_steps"]
            cross = fit_folds(
                files, self.task, self.study.folder, steps=steps, seed=options.seed, device=device, whole=renew
            )
        if cross is not None:
            self._keep_scores(request["round"], folds=out_of_fold(cross, files, self.task))
        if cross is None or not renew:
            served = self._champion(device) if options.pseudo_labels != "off" else None
            if served is None:
                return None, None, None
            round_id, champion = served[0].parent.name, served[1]
            earlier_trust = self.study.trust_of(round_id) if options.pseudo_labels != "raw" else None
            return champion, earlier_trust, round_id if earlier_trust is not None else None
        folder, sam = self.study.trust_folder(request["round"]), self.study.plain_sam()
        earlier = [self.study.trust_folder(r.id) for r in reversed(self.ledger.rounds()) if r.id != request["round"]]
        teacher, trust = learn(
            cross, files, self.task, sam, self.study.embeddings, folder, earlier, seed=options.seed, device=device,
            unlabelled=self.study.holdout.trainable(datastore.get_unlabeled_images()), path_of=datastore.get_image_uri,
        )  # fmt: skip
        if found := trust.record["adaptation"]:
            learnt_from = digests(entry for entry in files if entry.id in cross.folds)
            id = self.study.keep_adaptation(found, folder / ADAPTED_FILE, learnt_from, request["round"])
            logger.info("SAM %s: %s", id, found["reason"])
        self._add_champion(teacher, request, files, device, datastore)
        return teacher, self.study.as_in_force(trust), request["round"]

    def _add_champion(
        self, teacher: Teacher, request: dict[str, Any], files: list[CaseFiles], device: str, datastore: Any
    ) -> None:
        """The champion joins the teacher as far as the hold-out listens to it; a small one cannot tell."""
        held, served = human_cases(datastore, request["held_ids"]), self._champion(device)
        if served is None or len(held) < MIN_HELD:
            return
        unlabelled = self.study.holdout.trainable(datastore.get_unlabeled_images())
        options = TrainOptions.model_validate(request["options"])
        told = add_earlier(
            teacher, served[1], held, files, self.task, self.study.plain_sam(), self.study.embeddings,
            self.study.trust_folder(request["round"]), seed=options.seed, device=device,
            unlabelled=unlabelled, path_of=datastore.get_image_uri,
        )  # fmt: skip
        self._keep_scores(request["round"], earlier={"round": served[0].parent.name, **told})

    def _produce(self, options: TrainOptions, teacher: Student | Teacher, trust: Trust | None, datastore: Any) -> None:
        holdout, softs = self.study.holdout, self._softs()

        def on_case(case_id: str, image: CaseImage, label: PseudoLabel) -> None:
            if softs is not None:
                softs.keep(case_id, label)
            if self.on_case is not None:
                self.on_case(case_id, image, label)

        counts = produce(
            datastore,
            teacher,
            self._backend(options, trust),
            self.task,
            self.study.embeddings,
            datastore.list_images(),
            _log_case,
            exclude=holdout.ids | holdout.excluded,
            on_case=on_case,
            trust=trust,
        )
        logger.info("pseudo labels: %s", counts)

    def _softs(self) -> SoftLabels | None:
        return SoftLabels(self.study.folder / "soft") if self.task.pseudo_labels.soft is not False else None

    def _backend(self, options: TrainOptions, trust: Trust | None) -> SamBackend | None:
        """Trust knows which structures ask the adapted decoder; without it the SAM in force is asked."""
        if options.pseudo_labels == "raw":
            return None
        return self.study.sam() if trust is None else self.study.plain_sam()

    def _wanted(
        self, round_id: str, options: TrainOptions, teacher: Student | Teacher, trust: Trust | None
    ) -> list[Provenance]:
        """What pseudo labels must have been made with to be of use: the present teacher, or, where those that are there
        are used, what the last round that had any made them with."""
        wanted = [made_with(teacher.version, self._backend(options, trust), self.task, trust)]
        if options.pseudo_labels == "use":
            earlier = [
                self.ledger.kept(record.id, "inputs") for record in self.ledger.rounds() if record.id != round_id
            ]
            made = [kept["pseudo_labels_made_with"] for kept in earlier if kept]
            # Those of a raw round lie under a tag of their own and are not asked for here.
            known = [Provenance(**found) for found in made if found and found["sam_backend"]]
            wanted += known[-1:]
        return wanted

    def _keep_inputs(
        self,
        request: dict[str, Any],
        options: TrainOptions,
        cases: list[CaseFiles],
        made_with: Provenance | None,
        learnt_in: str | None,
    ) -> None:
        """Write down all that the challenger depends on, so that the round can be repeated. Paths from its folder on.

        Args:
            learnt_in: the round by whose trust the pseudo labels were made; its own, the champion's, or none.
        """
        elsewhere = "" if learnt_in == request["round"] else f"../{learnt_in}/"
        start = self.ledger.champion() if self.task.training.start == "champion" else None
        content = {
            "task": self.task.model_dump(mode="json"),
            "options": options.model_dump(mode="json"),
            "steps": request["max_epochs"] * request["epoch_steps"],
            "cases": digests(cases),
            "pseudo_labels_made_with": made_with.as_json() if made_with else None,
            "adapted_sam": self.study.sam_in_force,
            "trust": f"{elsewhere}trust/trust.json" if learnt_in else None,
            "start": start.model_digest if start else None,
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
                logger.info("read %d of %d cases", number, total)

        cases, unreadable = load_cases(context.train_datalist, self.task, progress)
        if unreadable and context.local_rank == 0:
            self.ledger.update(context.request["round"], unreadable=unreadable)
        # Every GPU draws batches of its own from all cases.
        seed = context.request["options"]["seed"] + context.local_rank
        return make_loader(cases, self.task, context.request["epoch_steps"], seed)

    # ---- the parts the host asks for ----

    def network(self, context: Context) -> torch.nn.Module:
        seed = context.request["options"]["seed"]
        # A champion that does not fit the task as it is now is no start; ``_champion`` has logged why.
        served = self._champion("cpu") if self.task.training.start == "champion" else None
        return new_network(self.task, seed, served[0] if served else None)

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


def _log_case(number: int, total: int, case_id: str) -> None:
    logger.info("pseudo labels: %d of %d (%s)", number, total, case_id)


def _inner(network: torch.nn.Module) -> torch.nn.Module:
    """The network inside of DistributedDataParallel."""
    inner: torch.nn.Module = getattr(network, "module", network)
    return inner


def _number(value: float | None) -> float:
    return float(value) if value is not None and value == value else 0.0


def _leave_room_for_the_server() -> None:
    """In the host's child, with three cores or more, one stays free. With fewer its low priority (``children.settle``)
    does: measured on two cores, a server's answer takes 1.0 ms (median) beside a training, with one thread or two."""
    if children.is_child() and (cores := os.cpu_count() or 1) > 2:
        torch.set_num_threads(min(torch.get_num_threads(), cores - 1))
