"""Labeling policy of a round: head weight, recipes, adapted SAM and quality model for its pseudo labels.

It is fitted on out-of-fold predictions (``policy_fit``) and applied to unlabelled cases (``labelling``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samstudent.errors import NotFound, UserError
from samstudent.pseudolabels.out_of_fold import with_axis
from samstudent.pseudolabels.quality_model import QualityModel
from samstudent.pseudolabels.recipe_choice import RecipeChoice
from samstudent.sam.adapted import load_adapted
from samstudent.sam.model import SamBackend, SamModel
from samstudent.task import Task

#: Smallest number of labelled cases for a policy: with fewer, models of two of three folds would train on one case.
MIN_LABELS = 3
#: Smallest mean out-of-fold Dice of a teacher whose pseudo labels train: with 32 drawn teeth and students that had not
#: converged, Dice on new images was 9.6 % with labels only, and 0.7 % with pseudo labels.
MIN_OOF_DICE = 0.05
POLICY_FILE = "policy.json"
#: File of the adapted SAM's weights in the folder of a policy.
ADAPTED_FILE = "adapted.safetensors"


@dataclass(frozen=True)
class LabelingPolicy:
    """Labeling policy: the fitted parts of the pseudo labeling of a round.

    Attributes:
        task: the task, with the axis of the slices of volumes.
        head_weight: weight of the embedding heads in the mean of students and heads, 0 to 1.
        choice: the recipe of each structure.
        quality: quality model for predictions of one fold's models or one student; None: the formula of
            ``quality_filter.sam_quality``.
        ensemble_offset: added to the logits of its estimates for predictions of all models.
        adapted: SAM with a decoder adapted to the labels; None: the plain one.
        record: figures of adaptation, choice and quality model, for the round's record.
    """

    task: Task
    head_weight: float
    choice: RecipeChoice
    quality: QualityModel | None
    ensemble_offset: float = 0.0
    adapted: SamModel | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uses_sam(self) -> bool:
        """Whether SAM's encoder is run on unlabelled cases.

        False for volumes without embedding heads and SAM's masks: quality features alone do not justify minutes for
        each volume.
        """
        # Without a quality model the formula needs SAM's agreement.
        return self.quality is None or needs_sam(self.task, self.head_weight, self.choice)

    @property
    def skip_reason(self) -> str | None:
        """Reason to skip pseudo labels this round (teacher below the minimum out-of-fold Dice), or None."""
        return skip_reason_of(self.record)

    @property
    def digest(self) -> str:
        """SHA-256, hex, of everything that a pseudo label depends on beside the teacher and the plain SAM."""
        recipes = {name: recipe.model_dump(mode="json") for name, recipe in self.choice.recipes.items()}
        quality = None if self.quality is None else self.quality.as_json()
        parts = [self.head_weight, recipes, quality, self.ensemble_offset, self.task.recipe.axis]
        parts.append(None if self.adapted is None else self.adapted.digest)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the adapted weights, for ``load``."""
        return {
            "head_weight": self.head_weight,
            "ensemble_offset": self.ensemble_offset,
            "axis": self.task.recipe.axis,
            "adapted": None if self.adapted is None else ADAPTED_FILE,
            "record": dict(self.record),
            "choice": self.choice.as_json(),
            "quality": None if self.quality is None else self.quality.as_json(),
        }

    @classmethod
    def load(cls, folder: Path, task: Task, backend: SamModel) -> LabelingPolicy:
        """The policy in a folder of ``fit_policy``.

        Args:
            folder: of ``policy.json`` and the adapted weights.
            task: the current task.
            backend: the plain SAM.

        Raises:
            NotFound: there is none, or the adapted weights are gone.
            UserError: it cannot be read, or was fitted for another SAM, other structures or another recipe.
        """
        path = folder / POLICY_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            choice, quality = RecipeChoice.from_json(content["choice"]), content["quality"]
            model = None if quality is None else QualityModel.from_json(quality)
            head_weight, record = float(content["head_weight"]), dict(content["record"])
            offset, axis, adapted_file = float(content["ensemble_offset"]), content["axis"], content["adapted"]
            valid = content["valid_for"]
            wrong = [key for key, value in valid_for(task, backend).items() if valid[key] != value]
        except FileNotFoundError:
            raise NotFound(f"{path}: there is no labeling policy") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            message = f"{path}: unreadable ({error}); restore it from a backup; the next round fits a new one"
            raise UserError(message) from error
        if wrong or set(choice.recipes) != set(task.names):
            raise UserError(f"{path}: fitted for another {' and '.join(wrong) or 'task'} than there is now")
        adapted = load_adapted(folder / adapted_file, backend) if adapted_file else None
        return cls(with_axis(task, axis), head_weight, choice, model, offset, adapted, record)


def needs_sam(task: Task, head_weight: float, choice: RecipeChoice) -> bool:
    """Whether SAM is needed for more than quality features, or these are cheap (2D)."""
    if task.dimension == 2 or head_weight > 0:
        return True
    return any(recipe.source != "student" for recipe in choice.recipes.values())


def skip_reason_of(record: Mapping[str, Any]) -> str | None:
    """``LabelingPolicy.skip_reason`` of a ``LabelingPolicy.record``."""
    dice = record.get("oof_dice")
    if dice is None or dice >= MIN_OOF_DICE:
        return None
    return f"trained on labels only: the teacher's out-of-fold Dice is {dice:.2f}, below {MIN_OOF_DICE}"


def valid_for(task: Task, backend: SamBackend) -> dict[str, str]:
    """Digests of the task, recipe and SAM for which a policy is valid."""
    content = task.model_dump(mode="json", include={"dimension", "structures", "overlap", "image", "recipe"})
    recipe = content.pop("recipe")
    parts = {"task": content, "recipe": recipe, "SAM": [backend.name, backend.digest, backend.preprocessing]}
    return {key: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for key, part in parts.items()}
