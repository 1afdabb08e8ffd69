"""Options of a simulation, and the two baselines for strategies.

- ``random``: each case with equal probability.
- ``foreground``: two of three cases are drawn from those in which the current student predicts a structure, which is
  drawn first, so that rare structures are as frequent as common ones; the third from all. This follows nnActive's
  Foreground Aware Random (Lüth et al., TMLR 2025, arXiv 2511.19183), which no strategy there exceeded reliably. There
  patches are drawn, and foreground is known from the annotator; here cases are drawn, by the student's prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from samstudent.active_learning.strategies import STRATEGIES
from samstudent.errors import UserError
from samstudent.research.setting import FolderOptions, Setting, make_setting
from samstudent.research.simulation.annotator import NoisyCase

BASELINES = ("random", "foreground")


@dataclass(frozen=True)
class Simulation:
    """Options of a simulation; see ``samstudent simulate --help``.

    Attributes:
        folder: options for cases and size of students.
        strategies: names from ``BASELINES`` and ``active_learning.strategies.STRATEGIES``.
        seeds: seeds of the first cases and the trainings.
        start: number of cases that are labelled first.
        batch: number of cases that are labelled in each round.
        rounds: number of rounds after the first student.
        pool: largest number of train cases; None: all.
        noise: errors of the annotator (``annotator.noisy_masks``); 0: labels as they are.
        command: the command line, for the report.
    """

    folder: FolderOptions
    strategies: tuple[str, ...] = (*BASELINES, *STRATEGIES)
    seeds: tuple[int, ...] = (0, 1, 2)
    start: int = 5
    batch: int = 5
    rounds: int = 4
    pool: int | None = None
    noise: float = 0.0
    command: str = ""

    def setting(self) -> Setting:
        """Folder, task and cases, read and checked.

        Raises:
            UserError: an unknown strategy; options that do not fit the folder.
        """
        known = (*BASELINES, *STRATEGIES)
        if unknown := [name for name in self.strategies if name not in known]:
            raise UserError(f"--strategies: {', '.join(unknown)} unknown; there are {', '.join(known)}")
        setting = make_setting(self.folder, [self.start])
        available, needed = len(setting.labelled(None)), self.start + self.batch * self.rounds
        if needed > available:
            raise UserError(
                f"--start {self.start} --batch {self.batch} --rounds {self.rounds} label {needed} cases, but there are "
                f"{available} labelled train cases{'' if self.pool is None else f' in --pool {self.pool}'}"
            )
        if not self.noise:
            return setting
        measured = set(setting.test)
        noisy = {id: case if id in measured else NoisyCase.of(case, self.noise) for id, case in setting.sources.items()}
        return replace(setting, sources=noisy)
