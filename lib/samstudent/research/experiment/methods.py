"""Methods of an experiment: the training data of their students.

All students are trained until they have converged, or for the same number of steps, twice ``--steps``. A method with
pseudo labels trains a student on the labels (for half of the steps), predicts the other cases with it, and continues
its training (for the other half), like a round of the server; the labels-only student of the comparison is trained on
the labels for all steps.

A method is a function of a ``Planner``, the number of labels and the seed, which returns the job of its student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samstudent.errors import UserError
from samstudent.research.experiment.plan import Job
from samstudent.research.setting import Setting
from samstudent.task import multiple


class Planner:
    """Factory of jobs; the same arguments give the same job."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def student(
        self, n: int | None, seed: int, *, times: int = 2, start: Job | None = None, pseudo: Job | None = None,
        unlabelled: Sequence[str] = (),
    ) -> Job:  # fmt: skip
        """Student on n labels (None: all), and on the pseudo labels of a job if there is one.

        Args:
            n, seed: number of labels; seed of the training.
            times: training steps in units of ``setting.steps``.
            start: student whose weights are the initial ones; None: random weights by the seed.
            pseudo: job of pseudo labels; None: no pseudo labels.
            unlabelled: cases for a mean teacher.
        """
        labelled = self.setting.labelled(n)
        params: dict[str, Any] = {"labelled": labelled, "steps": multiple(times, self.setting.steps), "seed": seed}
        needs = {name: job for name, job in (("start", start), ("pseudo", pseudo)) if job is not None}
        label = f"student on {pseudo.label}" if pseudo else f"student on {_labels(n, seed)}"
        if unlabelled:
            params["unlabelled"] = list(unlabelled)
            label += " and a mean teacher"
        if times == 1 and start is None and self.setting.steps != "auto":
            label += ", half of the steps"
        return self._job("student", label, params, [*labelled, *unlabelled], needs)

    def student_on(self, labelled: Sequence[str], seed: int) -> Job:
        """Student on these labels alone, for ``setting.steps``."""
        params = {"labelled": list(labelled), "steps": self.setting.steps, "seed": seed}
        return self._job("student", f"student on {len(labelled)} labels, seed {seed}", params, labelled, {})

    def teacher(self, n: int, seed: int) -> Job:
        """Labels-only student that predicts the other cases, and from which other students continue."""
        return self.student(n, seed, times=1)

    def self_training(self, masks: str, n: int, seed: int) -> Job:
        """Student that continues from its teacher with the teacher's masks of the other cases, see ``work.MASKS``."""
        teacher = self.teacher(n, seed)
        rest = self.setting.rest(n)
        params: dict[str, Any] = {"how": masks, "ids": rest}
        if masks in NEED_SAM:
            params["sam"] = self.sam
        label = f"{masks} pseudo labels from {_labels(n, seed)}"
        pseudo = self._job("pseudo", label, params, rest, {"teacher": teacher})
        return self.student(n, seed, times=1, start=teacher, pseudo=pseudo)

    def round(self, n: int, seed: int, champion: Job | None = None, **changes: Any) -> Job:
        """Student of one round of the product.

        Args:
            n, seed: number of labels; seed of the round.
            champion: job of an earlier round, whose student is part of the teacher.
            changes: changed options, see ``ours.run``.
        """
        labelled, rest = self.setting.labelled(n), self.setting.rest(n)
        params: dict[str, Any] = {"labelled": labelled, "unlabelled": rest, "seed": seed, "steps": self.setting.steps}
        params |= {"changes": changes, "task": self.setting.task.model_dump(mode="json")}
        label = f"{'second ' if champion else ''}round from {_labels(n, seed)}"
        label += next((f", {name}" for name, (known, _) in ABLATIONS.items() if known == changes), "")
        needs = {} if champion is None else {"champion": champion}
        return self._job("round", label, params, [*labelled, *rest], needs)

    def without_sam(self, n: int, seed: int) -> Job:
        """Student that continues from the student of all labels of a round, with masks of the round's students."""
        rest = self.setting.rest(n)
        label = f"pseudo labels without SAM from {_labels(n, seed)}"
        pseudo = self._job("pseudo", label, {"how": "raw", "ids": rest}, rest, {"round": self.round(n, seed)})
        return self.student(n, seed, times=1, start=pseudo, pseudo=pseudo)

    def nnunet(self, n: int, seed: int) -> Job:
        """nnU-Net and its masks of the test cases."""
        labelled, test = self.setting.labelled(n), list(self.setting.test)
        params = {"labelled": labelled, "ids": test, "seed": seed}
        return self._job("nnunet", f"nnU-Net on {_labels(n, seed)}", params, [*labelled, *test], {})

    def evaluation(self, student: Job, method: str, n: int | None, seed: int) -> Job:
        """Measurement of a student on the cases of the split."""
        test = list(self.setting.test)
        params = {"method": method, "labels": n, "seed": seed, "ids": test, "split": self.setting.split}
        return self._job("evaluate", f"measuring {method}, {_labels(n, seed)}", params, test, {"student": student})

    @property
    def sam(self) -> dict[str, Any]:
        """The task's SAM as JSON values."""
        return self.setting.task.sam.model_dump(mode="json")

    def _job(
        self, kind: str, label: str, params: Mapping[str, Any], cases: Sequence[str], needs: Mapping[str, Job]
    ) -> Job:
        training = self.setting.task.training.model_dump(mode="json", exclude={"steps", "seed"})
        content = {"training": training, "content": self.setting.digest(cases)}
        return Job(kind, label, {**params, **content}, tuple(cases), needs)


#: Names of ``work.MASKS`` that use SAM.
NEED_SAM = frozenset({"paper"})


@dataclass(frozen=True)
class Method:
    """A method of the registry.

    Attributes:
        build: factory of its student's job from planner, number of labels (None only for ``all``) and seed.
        description: training data of its student, one line for the report.
        per_labels: whether its result depends on the number of labels.
        uses_sam: whether SAM's embeddings of the unlabelled images are needed.
    """

    build: Callable[[Planner, Any, int], Job]
    description: str
    per_labels: bool = True
    uses_sam: bool = False


#: ``ours`` with one change: suffix of its name -> changed options (``ours.run``), and its description.
ABLATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "heads": ({"ablations": {"embedding_head": False}}, "ours without heads on SAM's embeddings"),
    "adapt": ({"ablations": {"adapt_sam": False}}, "ours with SAM's original decoder"),
    "recipes": ({"ablations": {"choose_recipe": False}}, "ours with the task's recipe for every structure"),
    "fusion": ({"ablations": {"fusion": False}}, "ours without fusing SAM's and the student's masks"),
    "quality": ({"ablations": {"estimate_quality": False}}, "ours with the quality formula instead of the model"),
    "weights": ({"ablations": {"weight_by_quality": False}}, "ours with weight 1 for every accepted mask"),
    "masks": ({"ablations": {"targets": "masks"}}, "ours with masks as targets, also if few are accepted"),
    "probabilities": ({"ablations": {"targets": "probabilities"}}, "ours with probabilities as targets"),
    "scratch": ({"start": "scratch"}, "ours, final student from its initial weights (half of a fixed number of steps)"),
    "random-sam": ({"random_sam": 0}, "ours with shuffled weights of SAM; the Dice must not be below labels only"),
}


def _ours(planner: Planner, n: int, seed: int) -> Job:
    return planner.round(n, seed)


def _ours_twice(planner: Planner, n: int, seed: int) -> Job:
    return planner.round(n, seed, champion=planner.round(n, seed))


def _ablation(changes: dict[str, Any]) -> Callable[[Planner, Any, int], Job]:
    return lambda planner, n, seed: planner.round(n, seed, **changes)


METHODS: dict[str, Method] = {
    "labels": Method(lambda planner, n, seed: planner.student(n, seed), "labels only"),
    "all": Method(
        lambda planner, n, seed: planner.student(None, seed),
        "labels of all training cases (upper reference)",
        per_labels=False,
    ),
    "teacher": Method(
        lambda planner, n, seed: planner.teacher(n, seed),
        "labels only (half of a fixed number of steps); initial student of the methods with pseudo labels",
    ),
    "nnunet": Method(
        lambda planner, n, seed: planner.nnunet(n, seed),
        "labels only, nnU-Net with its own configuration and training (requires the extra nnunetv2)",
    ),
    "raw": Method(
        lambda planner, n, seed: planner.self_training("raw", n, seed),
        "labels, and the teacher's masks of the unlabelled cases",
    ),
    "largest": Method(
        lambda planner, n, seed: planner.self_training("largest", n, seed),
        "labels, and the largest component of each of the teacher's masks",
    ),
    "walker": Method(
        lambda planner, n, seed: planner.self_training("walker", n, seed),
        "labels, and the teacher's masks refined by a random walker with confident pixels as seeds",
    ),
    "meanteacher": Method(
        lambda planner, n, seed: planner.student(n, seed, unlabelled=planner.setting.rest(n)),
        "labels, and consistency with a mean teacher on the unlabelled images (Tarvainen and Valpola 2017)",
    ),
    "paper": Method(
        lambda planner, n, seed: planner.self_training("paper", n, seed),
        "labels, and the teacher's masks refined by SAM as published (arXiv 2411.12602): most probable component; box, "
        "then points with logits; original decoder; all masks, binary, weight 1",
        uses_sam=True,
    ),
    "ours": Method(_ours, "labels, and pseudo labels of one round of samstudent (rounds.run_round)", uses_sam=True),
    "ours-without-sam": Method(
        lambda planner, n, seed: planner.without_sam(n, seed),
        "labels, and masks of the students cross-fitted in the round of ours; neither SAM nor an estimate of quality",
        uses_sam=True,
    ),
    "ours-twice": Method(
        _ours_twice,
        "labels, and pseudo labels of a second round, whose teacher includes the student of the first round",
        uses_sam=True,
    ),
}
METHODS |= {
    f"ours-{name}": Method(_ablation(changes), description, uses_sam=True)
    for name, (changes, description) in ABLATIONS.items()
}


def select(names: Sequence[str]) -> dict[str, Method]:
    """Methods by name, in the order of ``names``.

    Raises:
        UserError: a name is unknown.
    """
    if unknown := [name for name in names if name not in METHODS]:
        raise UserError(f"--methods: {', '.join(unknown)} unknown; there are {', '.join(METHODS)}")
    return {name: METHODS[name] for name in names}


def planned(setting: Setting, methods: Sequence[str], labels: Sequence[int], seeds: Sequence[int]) -> list[Job]:
    """The measurements: seeds outermost, so that every method has a figure early."""
    planner = Planner(setting)
    return [
        planner.evaluation(method.build(planner, n, seed), name, n, seed)
        for seed in seeds
        for name, method in select(methods).items()
        for n in (sorted(set(labels)) if method.per_labels else [None])
    ]


def _labels(n: int | None, seed: int) -> str:
    return f"{'all' if n is None else n} labels, seed {seed}"
