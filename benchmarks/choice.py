"""What choosing recipes on few labelled cases wins on others: the table in docs/explanation/recipe-search.md.

    samstudent experiment FOLDER --labels 10 --seeds 0 --methods ours --output DIR
    python benchmarks/choice.py DIR [--cases 174] [--draws 80] [--labels 5,10,30] [--job NAME]

The unlabelled cases of a finished experiment, of which the truth is known, are predicted by a fold's models and decoded
by the plain and the adapted decoder in the search's default configurations, once. Then some of them are drawn as if
they were the labelled ones, recipes are chosen on these (``choice.decide``), and scored on all others. The second half
of the rows knows the plain decoder only. Test cases are not looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from samstudent.pseudolabels.bench import Bench
from samstudent.pseudolabels.choice import Evidence, decide, honest_gain
from samstudent.pseudolabels.out_of_fold import honest_parts, see, spread_out
from samstudent.pseudolabels.search import try_recipes
from samstudent.pseudolabels.space import Space
from samstudent.research.experiment import ours, work
from samstudent.research.experiment.plan import Setting
from samstudent.task import Recipe

FOLDS = 3


class Tried:
    """Recipes with their Dice (n, S, C), simplest first."""

    def __init__(self, folder: Path, count: int, label: str) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        setting, jobs = Setting.from_json(plan["setting"]), plan["jobs"]
        first = [job for job in jobs.values() if job["kind"] == "trusted" and "earlier" not in job["needs"]]
        job = next(job for job in first if label in ("", job["label"]))
        params = job["params"]
        needs = {need: setting.work_folder(jobs[key]["kind"], key) for need, key in job["needs"].items()}
        backend, cache = work.backend_of(params), work.cache_of(setting)
        labeller = ours.Labeller(work.task_of(setting, params), setting.store, params, needs, backend, cache)
        task, trust, teacher = labeller.task, labeller.trust, labeller.teacher
        ids = spread_out([case for case in params["ids"] if case not in params["labelled"]], count)
        folds = {case: number % FOLDS for number, case in enumerate(ids)}
        # No fold's models trained on these: as if each had been left out by one.
        honest: Any = SimpleNamespace(
            folds=folds, predict_oof=lambda case, image, size: teacher.predict_fold(folds[case], image, size)
        )
        parts = []
        for case in ids:
            seen = see(case, *setting.store.known_case(case), honest, task)
            parts += [part for part, _ in honest_parts(seen, trust.share, task, backend, cache, len(ids))]
        adapted = trust.adapted
        self.space = Space.of(task.recipe, backend.name, adapted is not None)
        bench = Bench(parts, backend, dict.fromkeys(range(FOLDS), adapted) if adapted else None)
        self.recipes, self.dice, _, _ = try_recipes(
            self.space, bench, 9, 0, lambda done, total: print(f"{done} of {total}", file=sys.stderr)
        )
        self.shown = bench.shown

    def row(self, labels: int, draws: int, decoders: Sequence[str]) -> str:
        """What is won on cases that did not choose, over ``draws`` of ``labels`` cases."""
        keep = self.asking(decoders)
        sam, few = self.space.rivals([self.recipes[i] for i in keep])
        won, used = [], []
        for draw in range(draws):
            order = np.random.default_rng([labels, draw]).permutation(len(self.dice))
            known, others = (Evidence.of(self.dice[p][..., keep], self.shown[p]) for p in np.split(order, [labels]))
            chosen = np.array([verdict.recipe for verdict in decide(known, draw, sam, few)])
            if honest_gain(known, [i % FOLDS for i in range(labels)], draw, sam, few).gain < 0:
                chosen[:] = 0
            scores: Any = np.take_along_axis(others.dice, chosen[None, :, None], axis=2)[..., 0] - others.dice[..., 0]
            won.append(100 * (scores * others.valid).sum() / others.valid.sum())
            used.append(np.mean([sam[i] is not None for i in chosen]))
        told = f"{np.mean(won):+.2f} +- {np.std(won):.2f} | {np.min(won):+.2f} | {100 * np.mean(used):.0f} %"
        return f"| {' and '.join(decoders)} | {labels} | {told} |"

    def asking(self, decoders: Sequence[str]) -> list[int]:
        """The recipes that ask none but these decoders."""
        return [i for i, recipe in enumerate(self.recipes) if recipe.source == "student" or recipe.decoder in decoders]

    def best(self, decoders: Sequence[str]) -> tuple[float, Recipe]:
        """Of one recipe for all structures."""
        every = Evidence.of(self.dice, self.shown)
        gains = 100 * (every.dice - every.dice[..., :1]).sum(axis=(0, 1)) / every.valid.sum()
        index = max(self.asking(decoders), key=lambda i: gains[i])
        return float(gains[index]), self.recipes[index]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=174)
    parser.add_argument("--draws", type=int, default=80)
    parser.add_argument("--labels", default="5,10,30")
    parser.add_argument(
        "--job", default="", help="its name in the experiment's output; default: the first pseudo labels of ours"
    )
    arguments = parser.parse_args()
    tried = Tried(arguments.folder, arguments.cases, arguments.job)
    print("| decoders | labels | won, points of Dice | worst draw | SAM's or fused masks |\n|---|---|---|---|---|")
    for decoders in (("plain", "adapted"), ("plain",)):
        for labels in map(int, arguments.labels.split(",")):
            if labels < len(tried.dice) - 4:
                print(tried.row(labels, arguments.draws, decoders), flush=True)
        gain, recipe = tried.best(decoders)
        print(
            f"best of all, one for all structures: {gain:+.2f} by {recipe.source}, {recipe.component}", file=sys.stderr
        )


if __name__ == "__main__":
    main()
