"""The labeling policy of a round: what was learnt from its labelled cases about how to make pseudo labels.

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

#: A policy is fitted from so many labelled cases on: with fewer, two of three folds would have one case to learn from.
MIN_LABELS = 3
#: Teachers whose mean out-of-fold Dice is below this would only teach noise. Of 32 drawn teeth and students that had
#: not converged, labels alone gave 9.6 % on new films, with pseudo labels 0.7.
MIN_OOF_DICE = 0.05
POLICY_FILE = "policy.json"
#: What ``fit_policy`` calls the weights of an adapted SAM.
ADAPTED_FILE = "adapted.safetensors"


@dataclass(frozen=True)
class LabelingPolicy:
    """How the pseudo labels of a round are made.

    Attributes:
        task: with the axis along which volumes are cut into slices, where the task leaves that open.
        head_weight: weight of the embedding heads in the mean of students and heads, 0 to 1.
        choice: the recipe of each structure.
        quality: estimates the Dice of a structure that one fold's models, or one student, predict; None: quality is
            the formula of ``quality_filter.sam_quality``.
        ensemble_offset: added to the logits of these estimates where all models predict together.
        adapted: SAM with a decoder adapted to the labels; None: the plain one.
        record: what adaptation, choice and quality model found, for the round's record.
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
        """Whether SAM's encoder is run on unlabelled cases. Not on volumes where neither embedding heads nor SAM's
        masks take part: the quality features alone, of dozens of slices, are not worth minutes for each volume."""
        # Without a quality model the formula needs SAM's agreement.
        return self.quality is None or needs_sam(self.task, self.head_weight, self.choice)

    @property
    def skip_reason(self) -> str | None:
        """Reason to skip pseudo labels this round (teacher below the minimum out-of-fold Dice), or None."""
        return skip_reason_of(self.record)

    @property
    def digest(self) -> str:
        """SHA-256, hex, of all that shapes a pseudo label beside the teacher and the plain SAM."""
        recipes = {name: recipe.model_dump(mode="json") for name, recipe in self.choice.recipes.items()}
        quality = None if self.quality is None else self.quality.as_json()
        parts = [self.head_weight, recipes, quality, self.ensemble_offset, self.task.recipe.axis]
        parts.append(None if self.adapted is None else self.adapted.digest)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Plain values but the adapted weights, for ``load``."""
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
        """The policy that ``fit_policy`` wrote into a folder.

        Args:
            folder: of ``policy.json`` and the adapted weights.
            task: the task now.
            backend: the plain SAM.

        Raises:
            NotFound: there is none, or the adapted weights are gone.
            UserError: it cannot be read, or is for another SAM, or for other structures or another recipe.
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
    """Whether pseudo labels depend on SAM by more than quality features, or these are cheap (of images)."""
    if task.dimension == 2 or head_weight > 0:
        return True
    return any(recipe.source != "student" for recipe in choice.recipes.values())


def skip_reason_of(record: Mapping[str, Any]) -> str | None:
    """``LabelingPolicy.skip_reason`` of a ``LabelingPolicy.record``."""
    dice = record.get("oof_dice")
    if dice is None or dice >= MIN_OOF_DICE:
        return None
    return f"trained on labels alone: the teachers' out-of-fold Dice is only {dice:.2f}, below {MIN_OOF_DICE}"


def valid_for(task: Task, backend: SamBackend) -> dict[str, str]:
    """Digests of what a policy means nothing without: task, recipe and SAM."""
    content = task.model_dump(mode="json", include={"dimension", "structures", "overlap", "image", "recipe"})
    recipe = content.pop("recipe")
    parts = {"task": content, "recipe": recipe, "SAM": [backend.name, backend.digest, backend.preprocessing]}
    return {key: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for key, part in parts.items()}
