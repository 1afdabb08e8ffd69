"""The methods that are compared: each says from which labels its student learns. All train for as many steps.

A method is a function of a ``Planner``, the number of labels and the seed, which returns the job of its student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from samstudent.errors import UserError
from samstudent.evaluation.experiment.plan import Job, Setting

#: Cases that one job prepares or embeds.
_SHARD = 40


class Planner:
    """Makes jobs; the same arguments make the same job."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def student(self, n: int | None, seed: int, pseudo: Job | None = None, **training: Any) -> Job:
        """A student on n labels (None: all), and on the pseudo labels of a job if there is one.

        Args:
            training: further parameters of ``work.train``.
        """
        setting = self.setting
        labelled = setting.labelled(n)
        params = {"labelled": labelled, "steps": setting.steps, "seed": seed, **self._data(), **training}
        params["training"] = setting.task.training.model_dump(mode="json", exclude={"steps", "seed"})
        needs = self.prepared([*labelled, *params.get("unlabelled", [])])
        if pseudo is not None:
            needs["pseudo"] = pseudo
        name = "all labels" if n is None else f"{len(labelled)} labels"
        return Job("student", f"student on {name}{', ' + pseudo.label if pseudo else ''}, seed {seed}", params, needs)

    def pseudo(self, how: str, n: int, teacher: Job, **more: Any) -> Job:
        """Pseudo labels of the cases that are not labelled, see ``work.PSEUDO``."""
        rest = self.setting.rest(n)
        params = {"how": how, "ids": rest, **self._data(), **more}
        return Job("pseudo", f"{how} pseudo labels", params, {"teacher": teacher, **self.prepared(rest)})

    def evaluation(self, student: Job, method: str, n: int | None, seed: int) -> Job:
        """The student on the cases of the split."""
        params = {"method": method, "labels": n, "seed": seed, "ids": list(self.setting.test), **self._data()}
        label = f"measuring {method}, {'all' if n is None else n} labels, seed {seed}"
        return Job("evaluate", label, params, {"student": student, **self.prepared(self.setting.test)})

    def prepared(self, ids: Sequence[str]) -> dict[str, Job]:
        """The jobs that read these cases from the folder."""
        return self._shards("prepare", "reading", ids)

    def embedded(self, ids: Sequence[str], **sam: Any) -> dict[str, Job]:
        """The jobs that embed these images for SAM; volumes are embedded where they are refined, slice by slice."""
        if self.setting.task.dimension == 3:
            return {}
        jobs = self._shards("embed", "embedding", ids, sam=self._sam(), **sam)
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
    """

    build: Callable[[Planner, Any, int], Job]
    meaning: str
    per_labels: bool = True


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


def _self_training(how: str) -> Callable[[Planner, int, int], Job]:
    def build(planner: Planner, n: int, seed: int) -> Job:
        return planner.student(n, seed, planner.pseudo(how, n, planner.student(n, seed)))

    return build


_method("raw", "and on the labels-only student's own masks of the other cases")(_self_training("raw"))
_method("largest", "and on the largest component of each of these masks")(_self_training("largest"))
_method("walker", "and on these masks redrawn by a random walker from their sure pixels")(_self_training("walker"))


@_method(
    "paper",
    "and on these masks redrawn by SAM as published (arXiv 2411.12602): most probable component; box, then points with "
    "logits; plain decoder; every mask taken, hard, with weight 1",
)
def paper(planner: Planner, n: int, seed: int) -> Job:
    more = {"sam": planner._sam()}
    job = planner.pseudo("paper", n, planner.student(n, seed), **more)
    return planner.student(n, seed, after(job, planner.embedded(planner.setting.rest(n))))


def chosen(names: Sequence[str]) -> dict[str, Method]:
    """Methods by name, in the order asked for.

    Raises:
        UserError: one is unknown.
    """
    if unknown := [name for name in names if name not in METHODS]:
        raise UserError(f"--methods: {', '.join(unknown)} unknown; there are {', '.join(METHODS)}")
    return {name: METHODS[name] for name in names}
