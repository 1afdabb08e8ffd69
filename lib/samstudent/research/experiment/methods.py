"""The methods that are compared: each says from which labels its student learns. All train for as many steps, but for
two that say so.

A method is a function of a ``Planner``, the number of labels and the seed, which returns the job of its student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from samstudent.errors import UserError
from samstudent.pseudolabels.ablations import Ablations
from samstudent.pseudolabels.out_of_fold import spread_out
from samstudent.pseudolabels.policy import MIN_LABELS
from samstudent.pseudolabels.policy_fit import cases_for_offset
from samstudent.pseudolabels.teacher import CHAMPION_WEIGHT, MAX_TEACHER_LABELLED
from samstudent.research.experiment.plan import Job, Setting

#: Keys of the task by section.
Changes = Mapping[str, Mapping[str, Any]]
#: What of a task shapes a policy, beside what the store and the students depend on; pseudo labels depend on one more.
_POLICY_SECTIONS = ("recipe", "sam")
_LABEL_SECTIONS = (*_POLICY_SECTIONS, "pseudo_labels")
#: Beside sections of the task, ``Changes`` may have fields of ``Ablations`` under this name.
_ABLATIONS = "ablations"
#: Cases that one job prepares or embeds.
_SHARD = 40
#: Volumes of the split on which estimates of quality are compared with the truth: SAM looks at every slice of each.
_MEASURED_VOLUMES = 10


class Planner:
    """Makes jobs; the same arguments make the same job."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def student(
        self,
        n: int | None,
        seed: int,
        pseudo: Job | None = None,
        *,
        changes: Changes = MappingProxyType({}),
        unlabelled: Sequence[str] = (),
        start: Job | None = None,
        times: int = 1,
    ) -> Job:
        """A student on n labels (None: all), and on the pseudo labels of a job if there is one.

        Args:
            changes: keys of the task that differ, by section.
            unlabelled: cases of which a mean teacher learns.
            start: a student to go on from, instead of fresh weights.
            times: as many steps as the others, so many times.
        """
        setting = self.setting
        labelled = setting.labelled(n)
        params: dict[str, Any] = {"labelled": labelled, "steps": times * setting.steps, "seed": seed, **self._data()}
        if unlabelled:
            params["unlabelled"] = list(unlabelled)
        whole = setting.task.model_dump(mode="json")
        params["sections"] = {name: whole[name] | changes.get(name, {}) for name in ("training", "pseudo_labels")}
        needs = self.prepared([*labelled, *unlabelled])
        if pseudo is not None:
            needs["pseudo"] = pseudo
        name = pseudo.label if pseudo else f"{'all' if n is None else n} labels, seed {seed}"
        if start is not None:
            needs["start"] = start
            name += f", on from the {start.label}"
        if times > 1:
            name += f", {times} times the steps"
        return Job("student", f"student on {name}", params, needs)

    def pseudo(self, how: str, n: int, teacher: Job, **more: Any) -> Job:
        """Pseudo labels of the cases that are not labelled, see ``work.PSEUDO``."""
        rest = self.setting.rest(n)
        params = {"how": how, "ids": rest, **self._data(), **more}
        label = f"{how} pseudo labels from {n} labels, seed {teacher.params['seed']}"
        return Job("pseudo", label, params, {"teacher": teacher, **self.prepared(rest)})

    def ours(self, n: int, seed: int, changes: Changes = MappingProxyType({}), **options: Any) -> dict[str, Job]:
        """The jobs of the last round's pseudo labels: ``labels`` of the unlabelled cases, and ``test`` of the test
        cases, which train nothing and only tell how good the estimates of quality are.

        Args:
            changes: keys of the task that differ, by section.
            options: ``again`` False: one round, not a second with the student of the first among its teachers;
                ``ensemble`` False: the labels-only student alone is asked, then that of the first round alone;
                ``random_sam`` True: a SAM whose weights mean nothing.
        """
        setting = self.setting
        if n < MIN_LABELS:
            raise UserError(f"--labels {n}: the method ours needs {MIN_LABELS} or more")
        ablations = Ablations(**changes.get(_ABLATIONS, {}))
        whole = setting.task.model_dump(mode="json")
        sections = {name: whole[name] | changes.get(name, {}) for name in _LABEL_SECTIONS}
        labelled, rest = setting.labelled(n), setting.rest(n)
        # One shuffle for all seeds, whose embeddings are then shared: the trainings differ enough.
        random = {"random_sam": 0} if options.get("random_sam") else {}
        sam = {"sam": self._sam(), **random}
        plain = {"labelled": labelled, "steps": setting.steps, "seed": seed, **self._data()}
        # Only what students depend on, so that methods that differ elsewhere share them.
        folds = {"folds": sections["pseudo_labels"]["folds"]}
        told = {"training": whole["training"], "pseudo_labels": folds}
        students = Job(
            "students",
            f"students on folds of {n} labels, seed {seed}",
            plain | {"sections": told},
            {**self.prepared(labelled), "full": self.student(n, seed)},
        )
        images = self.embedded(labelled, **random)
        if ablations.embedding_head:
            told = told | {"recipe": whole["recipe"]}
            label = f"embedding heads on {'a random ' if random else ''}SAM and {n} labels, seed {seed}"
            students = Job("heads", label, plain | sam | {"sections": told}, {"students": students, **images})
        given = {name: sections[name] for name in _POLICY_SECTIONS} | {"pseudo_labels": folds}
        more = plain | sam | {"sections": given, _ABLATIONS: ablations.as_json()}
        name = f"{n} labels, seed {seed}{_told(changes, options)}"
        looked_at = cases_for_offset(rest, setting.task)
        images |= self.prepared(looked_at) | self.embedded(looked_at, **random)
        policy = Job(
            "policy", f"policy from {name}", more | {"unlabelled": looked_at}, {"students": students, **images}
        )  # fmt: skip
        ensemble = options.get("ensemble", True)
        needs = {"policy": policy, "students": students}
        first = None if ensemble else self.student(n, seed)
        jobs = self._trusted(name, more, sections, needs, first, None if ensemble else 1.0)
        if not options.get("again", True):
            return jobs
        student, weight = self.student(n, seed, jobs["labels"], changes=changes), CHAMPION_WEIGHT if ensemble else 1.0
        if ensemble and ablations.embedding_head and setting.task.dimension == 2:
            ids = rest[:MAX_TEACHER_LABELLED]
            needs["head"] = Job(
                "head",
                f"embedding head of the second round from {name}",
                {**more, "weight": weight, "ids": ids},
                {**needs, "champion": student, **self.prepared(ids), **self.embedded(ids, **random)},
            )
        return self._trusted(f"{name}, second round", more, sections, needs, student, weight)

    def _trusted(
        self, name: str, params: Mapping[str, Any], sections: Mapping[str, Any], needs: Mapping[str, Job],
        champion: Job | None, weight: float | None,
    ) -> dict[str, Job]:  # fmt: skip
        """The jobs of ``ours`` for one round; ``champion`` is a student that joins its teacher with this weight."""
        jobs = {}
        if champion is not None:
            needs = {**needs, "champion": champion}
            params = {**params, "weight": weight}
        random = {"random_sam": params["random_sam"]} if "random_sam" in params else {}
        test = list(self.setting.test)
        if self.setting.task.dimension == 3:
            test = spread_out(test, _MEASURED_VOLUMES)
        for what, ids in (("labels", self.setting.rest(len(params["labelled"]))), ("test", test)):
            seen = {**needs, **self.prepared(ids), **self.embedded(ids, **random)}
            label = f"{'pseudo labels' if what == 'labels' else 'their quality on test cases'} from {name}"
            jobs[what] = Job("trusted", label, {**params, "ids": ids, "sections": sections}, seen)
        return jobs

    def evaluation(self, student: Job, method: str, n: int | None, seed: int) -> Job:
        """The student on the cases of the split."""
        params = {"method": method, "labels": n, "seed": seed, "ids": list(self.setting.test), **self._data()}
        label = f"measuring {method}, {'all' if n is None else n} labels, seed {seed}"
        return Job("evaluate", label, params, {"student": student, **self.prepared(self.setting.test)})

    def prepared(self, ids: Sequence[str]) -> dict[str, Job]:
        """The jobs that read these cases from the folder."""
        return self._shards("prepare", "reading", ids)

    def embedded(self, ids: Sequence[str], **random: Any) -> dict[str, Job]:
        """The jobs that embed these images for SAM; volumes are embedded where they are refined, slice by slice."""
        if self.setting.task.dimension == 3:
            return {}
        jobs = self._shards("embed", "embedding", ids, sam=self._sam(), **random)
        return {name: after(job, self.prepared(job.params["ids"])) for name, job in jobs.items()}

    def _shards(self, kind: str, label: str, ids: Sequence[str], **params: Any) -> dict[str, Job]:
        """One job for every block of the pool or the test cases that has any of the ids."""
        jobs, wanted = {}, set(ids)
        for part, cases in (("pool", self.setting.pool), ("test", self.setting.test)):
            for start in range(0, len(cases), _SHARD):
                block = list(cases[start : start + _SHARD])
                if wanted & set(block):
                    name = f"{part} {start + 1} to {start + len(block)}"
                    jobs[f"{kind} {name}"] = Job(kind, f"{label} {name}", {"ids": block, **self._data(), **params})
        return jobs

    def _data(self) -> dict[str, str]:
        return {"cases": self.setting.store.path.name}

    def _sam(self) -> dict[str, Any]:
        return self.setting.task.sam.model_dump(mode="json")


def after(job: Job, others: Mapping[str, Job]) -> Job:
    """The job, to be done after others, too."""
    return replace(job, needs={**job.needs, **others})


@dataclass(frozen=True)
class Method:
    """A method of the registry.

    Attributes:
        build: makes its student's job of planner, labels (None only for the ceiling) and seed.
        meaning: one line for the report.
        per_labels: False: the same whatever the number of labels.
        quality: makes the job that tells how good estimates of quality are on test cases.
    """

    build: Callable[[Planner, Any, int], Job]
    meaning: str
    per_labels: bool = True
    quality: Callable[[Planner, int, int], Job] | None = None


METHODS: dict[str, Method] = {}


def _method(name: str, meaning: str, per_labels: bool = True) -> Callable[[Callable[..., Job]], Callable[..., Job]]:
    def register(build: Callable[..., Job]) -> Callable[..., Job]:
        METHODS[name] = Method(build, meaning, per_labels)
        return build

    return register


@_method("labels", "trained on the labels only")
def labels_only(planner: Planner, n: int, seed: int) -> Job:
    return planner.student(n, seed)


@_method("all", "trained on the labels of all cases: the ceiling", per_labels=False)
def all_labels(planner: Planner, n: int | None, seed: int) -> Job:
    return planner.student(None, seed)


@_method("labels+steps", "trained on the labels only, for twice as many steps: what ours+start is to be compared with")
def labels_longer(planner: Planner, n: int, seed: int) -> Job:
    return planner.student(n, seed, times=2)


@_method("nnunet", "by nnU-Net, which configures and trains itself (needs the extra nnunetv2)")
def nnunet(planner: Planner, n: int, seed: int) -> Job:
    setting = planner.setting
    labelled = setting.labelled(n)
    params = {"labelled": labelled, "ids": list(setting.test), "seed": seed, **planner._data()}
    return Job("nnunet", f"nnU-Net on {n} labels, seed {seed}", params, planner.prepared([*labelled, *setting.test]))


def _self_training(how: str) -> Callable[[Planner, int, int], Job]:
    def build(planner: Planner, n: int, seed: int) -> Job:
        return planner.student(n, seed, planner.pseudo(how, n, planner.student(n, seed)))

    return build


_method("raw", "and on the labels-only student's own masks of the other cases")(_self_training("raw"))
_method("largest", "and on the largest component of each of these masks")(_self_training("largest"))
_method("walker", "and on these masks redrawn by a random walker from their sure pixels")(_self_training("walker"))


@_method("meanteacher", "and on the other images as a mean teacher does (Tarvainen and Valpola 2017), without masks")
def mean_teacher(planner: Planner, n: int, seed: int) -> Job:
    return planner.student(n, seed, unlabelled=planner.setting.rest(n))


@_method(
    "paper",
    "and on these masks redrawn by SAM as published (arXiv 2411.12602): most probable component; box, then points with "
    "logits; plain decoder; every mask taken, hard, with weight 1",
)
def paper(planner: Planner, n: int, seed: int) -> Job:
    more = {"sam": planner._sam()}
    job = planner.pseudo("paper", n, planner.student(n, seed), **more)
    return planner.student(n, seed, after(job, planner.embedded(planner.setting.rest(n))))


#: ``ours`` with a part switched off: the part, the keys of the task, options of ``Planner.ours``, and what is left.
PARTS: dict[str, tuple[Changes, dict[str, Any], str]] = {
    "adapt": ({_ABLATIONS: {"adapt_sam": False}}, {}, "ours with SAM's plain decoder"),
    "search": ({_ABLATIONS: {"choose_recipe": False}}, {}, "ours with the task's recipe for every structure"),
    "calibrate": (
        {_ABLATIONS: {"estimate_quality": False, "weight_by_quality": False}, "pseudo_labels": {"threshold": 0.0}},
        {},
        "ours without estimates of quality: every mask taken, with weight 1",
    ),
    "fusion": ({_ABLATIONS: {"fusion": False}}, {}, "ours without fusing SAM's and the student's masks"),
    "soft": ({_ABLATIONS: {"targets": "masks"}}, {}, "ours taught masks, filtered and weighted by quality, always"),
    "readers": ({_ABLATIONS: {"embedding_head": False}}, {}, "ours without convolutions on SAM's embeddings"),
    "again": ({}, {"again": False}, "ours in one round: its student never teaches a second"),
    "ensemble": ({}, {"ensemble": False}, "ours with one student asked alone: the labels-only one, then its successor"),
    "random-sam": ({}, {"random_sam": True}, "ours with a SAM whose weights were shuffled; what may not do harm"),
}
#: ``ours`` with a choice of training switched over.
CHOICES: dict[str, tuple[Changes, str]] = {
    "ema": ({"training": {"ema": 0.99}}, "ours, with the running average of the weights as its student"),
    "soft": ({_ABLATIONS: {"targets": "probabilities"}}, "ours taught probabilities, always"),
}


def _ours(changes: Changes, **options: Any) -> Callable[[Planner, int, int], Job]:
    def build(planner: Planner, n: int, seed: int) -> Job:
        return planner.student(n, seed, planner.ours(n, seed, changes, **options)["labels"], changes=changes)

    return build


_method(
    "ours",
    "and on pseudo labels as two rounds make them: embedding heads, adapted SAM, recipes chosen, quality estimated; "
    "the student of the first is among the teachers of the second",
)(_ours({}))
METHODS["ours"] = replace(METHODS["ours"], quality=lambda planner, n, seed: planner.ours(n, seed)["test"])
for _part, (_changes, _options, _meaning) in PARTS.items():
    _method(f"ours-{_part}", _meaning)(_ours(_changes, **_options))
for _part, (_changes, _meaning) in CHOICES.items():
    _method(f"ours+{_part}", _meaning)(_ours(_changes))


@_method(
    "ours+start",
    "ours as the server's rounds train it: on from the labels-only student, so with twice as many steps in all",
)
def ours_onward(planner: Planner, n: int, seed: int) -> Job:
    return planner.student(n, seed, planner.ours(n, seed)["labels"], start=planner.student(n, seed))


def _told(changes: Changes, options: Mapping[str, Any]) -> str:
    """A method of ``PARTS`` or ``CHOICES`` in the label of a job."""
    for part, (part_changes, part_options, _) in PARTS.items():
        if (changes, options) == (part_changes, part_options):
            return f", without {part}" if part != "random-sam" else ", random SAM"
    return next((f", {part}" for part, (given, _) in CHOICES.items() if given == changes), "")


def chosen(names: Sequence[str]) -> dict[str, Method]:
    """Methods by name, in the order asked for.

    Raises:
        UserError: one is unknown.
    """
    if unknown := [name for name in names if name not in METHODS]:
        raise UserError(f"--methods: {', '.join(unknown)} unknown; there are {', '.join(METHODS)}")
    return {name: METHODS[name] for name in names}
