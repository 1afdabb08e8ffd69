"""How often noise is taken for a lead: the share in docs/explanation/recipe-search.md.

    python benchmarks/choice_noise.py

Recipes are chosen (``choice.decide``) on drawn Dice in which none is better than the student's own masks. What is right
is to keep those. Differences to the student are as large, and as alike between recipes, as those of real searches.
"""

from __future__ import annotations

import argparse

import numpy as np

from samstudent.pseudolabels.choice import Evidence, decide, honest_gain

RECIPES, FEW = 47, 11
STUDENT, SPREAD, CORRELATION = 0.8, 0.04, 0.85
FOLDS = 3


def draw(cases: int, structures: int, rng: np.random.Generator) -> Evidence:
    """Of recipes that differ from the first, the student's masks, by chance alone."""
    shape = (cases, structures, RECIPES)
    common = rng.normal(size=(*shape[:2], 1))
    difference = np.sqrt(CORRELATION) * common + np.sqrt(1 - CORRELATION) * rng.normal(size=shape)
    dice = STUDENT + SPREAD * difference * (np.arange(RECIPES) > 0)
    return Evidence.of(dice.clip(0, 1), np.ones(shape[:2], bool))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100)
    draws = parser.parse_args().draws
    print("| structures | cases | the student's masks stay | and after the check of honest gain |\n|---|---|---|---|")
    for structures in (2, 5, 32):
        for cases in (5, 10, 30):
            rng = np.random.default_rng([structures, cases])
            stays, stays_in_the_end = [], []
            for number in range(draws):
                evidence = draw(cases, structures, rng)
                kept = np.mean([verdict.recipe == 0 for verdict in decide(evidence, number, few=FEW)])
                honest = honest_gain(evidence, [case % FOLDS for case in range(cases)], number, few=FEW)
                stays.append(kept)
                stays_in_the_end.append(kept if honest.gain >= 0 else 1.0)
            told = (f"{100 * np.mean(share):.0f} %" for share in (stays, stays_in_the_end))
            print(f"| {structures} | {cases} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
