"""What choosing recipes on few labelled cases wins on others: the table in docs/explanation/recipe-search.md.

    samstudent experiment FOLDER --labels 10 --seeds 0 --methods ours --output DIR
    python benchmarks/choice.py DIR [--cases 174] [--draws 80] [--labels 5,10,30] [--job "trust from 10 labels, seed 0"]

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
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from samstudent.evaluation.experiment import ours
from samstudent.evaluation.experiment.store import Store
from samstudent.pseudolabels.bench import Bench
from samstudent.pseudolabels.choice import Evidence, decide, honest_gain
from samstudent.pseudolabels.labelled import Seen, honest_parts, size_of, spread_out
from samstudent.pseudolabels.search import _try_cells
from samstudent.pseudolabels.space import Space
from samstudent.pseudolabels.trust import Trust
from samstudent.sam.backends import load_backend
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.working import reduced
from samstudent.task import Recipe, Task

FOLDS = 3


class Tried:
    """Recipes with their Dice (n, S, C), simplest first."""

    def __init__(self, folder: Path, count: int, label: str) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        jobs = plan["jobs"]
        key = next(k for k, job in jobs.items() if job["kind"] == "trust" and label in ("", job["label"]))
        job, plain = jobs[key], Task.model_validate(plan["setting"]["task"])
        task = Task.model_validate(plan["setting"]["task"] | job["params"].get("sections", {}))
        store, backend = Store(folder / "work" / job["params"]["cases"], plain), load_backend(task.sam)
        cache = EmbeddingCache(Path(plan["setting"]["embeddings"]), 32 << 30)
        trust = Trust.load(folder / "work" / f"trust-{key}", task, backend)
        students = job["needs"]["students"]
        models = folder / "work" / f"{jobs[students]['kind']}-{students}"
        teacher = ours._teacher(task, store, job["params"], models, backend, cache)
        drawn = next(job["params"]["ids"] for job in jobs.values() if job["kind"] == "trusted")
        ids = spread_out([case for case in drawn if case not in job["params"]["labelled"]], count)
        parts = []
        for number, case in enumerate(ids):
            image, truth = store.known_case(case)
            size = size_of(image, trust.task)
            views = teacher.fold_views(number % FOLDS, image, size).astype(np.float16)
            if task.dimension == 2:
                truth = reduced(truth, (size[0], size[1])) >= 0.5
            seen = Seen(case, number % FOLDS, image, views, truth)
            parts += [part for part, _ in honest_parts(seen, trust.share, trust.task, backend, cache, len(ids))]
        adapted = trust.adapted
        space = self.space = Space.of(trust.task.recipe, backend.name, adapted is not None)
        bench = Bench(parts, backend, dict.fromkeys(range(FOLDS), adapted) if adapted else None)
        tried = [(recipe, bench.dice([recipe])[..., 0]) for recipe in space.students()]
        _try_cells(space, bench, tried, 9, 0, lambda done, total: print(f"{done} of {total}", file=sys.stderr))
        tried.sort(key=lambda item: space.complexity(item[0]))
        self.recipes, self.dice = [recipe for recipe, _ in tried], np.stack([dice for _, dice in tried], axis=-1)
        self.shown = bench.shown

    def row(self, labels: int, draws: int, decoders: Sequence[str]) -> str:
        """What is won on cases that did not choose, over ``draws`` of ``labels`` cases."""
        keep = [i for i, recipe in enumerate(self.recipes) if recipe.source == "student" or recipe.decoder in decoders]
        recipes = [self.recipes[i] for i in keep]
        alone = [None if recipe.source == "student" else self.space.sam_alone(recipe) for recipe in recipes]
        sam = [None if recipe is None else recipes.index(recipe) for recipe in alone]
        few = sum(self.space.is_base(recipe) for recipe in recipes)
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

    def best(self, decoders: Sequence[str]) -> tuple[float, Recipe]:
        """Of one recipe for all structures."""
        every = Evidence.of(self.dice, self.shown)
        gains = 100 * (every.dice - every.dice[..., :1]).sum(axis=(0, 1)) / every.valid.sum()
        allowed = [
            i for i, recipe in enumerate(self.recipes) if recipe.source == "student" or recipe.decoder in decoders
        ]
        index = max(allowed, key=lambda i: gains[i])
        return float(gains[index]), self.recipes[index]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=174)
    parser.add_argument("--draws", type=int, default=80)
    parser.add_argument("--labels", default="5,10,30")
    parser.add_argument("--job", default="", help="its name in the experiment's output; default: the first of trust")
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
