"""The recipes among which a search chooses, and which of two is the simpler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samstudent.task import BOX_STAGES, PAPER_STAGES, Recipe, Stage

#: One decoding configuration: axis -> the label of its value.
Cell = dict[str, str]

_COMPONENTS = ("probable", "largest", "all")
_MARGINS = (0.0, 0.03, 0.06, 0.1)
_OPERATIONS = ("dilate", "erode", "open", "close")
#: For a search by trials: a thin and a thick footprint. With `none`, nine shapes.
_SIZES = (3, 8)
#: For the grid: six shapes, so that 3 components x 6 shapes x 4 margins x 12 pairs of stages are the paper's 864.
_GRID_SHAPES = (("none", 8), ("dilate", 4), ("dilate", 8), ("erode", 4), ("open", 8), ("close", 8))
_WEIGHTS = (0.25, 0.5, 0.75)
_SOURCES = ("sam", "fused", "border")
#: Backends that were trained with boxes only.
_BOX_ONLY = ("lite_medsam", "medsam")


@dataclass(frozen=True)
class Space:
    """What may be asked of SAM, and what may be made of its answer.

    Attributes:
        base: the task file's recipe; what no axis varies is taken from it.
        backend: name of the SAM, which decides the stages of a recipe without any.
        axes: the decoder is run for each cell of these: axis -> label -> changes of the base recipe.
        fusion: whether SAM's answer may be fused with the student's.
    """

    base: Recipe
    backend: str
    axes: dict[str, dict[str, dict[str, Any]]]
    fusion: bool = True

    @classmethod
    def of(cls, base: Recipe, backend: str, adapted: bool, grid: bool = False, fusion: bool = True) -> Space:
        """The space of a backend.

        Args:
            base: the task file's recipe. Its own values are on every axis.
            backend: name of the SAM.
            adapted: whether there are adapted decoders.
            grid: the paper's grid instead of what suits the backend.
            fusion: whether SAM's answer may be fused with the student's.
        """
        shapes = _GRID_SHAPES if grid else (("none", 8), *((op, size) for op in _OPERATIONS for size in _SIZES))
        stages = _paper_stages() if grid else _suitable_stages(backend)
        margins, own_shape, own_stages = set(_MARGINS), _shape(base), base.stages_for(backend)
        components = (base.component, *(c for c in _COMPONENTS if c != base.component))
        axes: dict[str, dict[str, dict[str, Any]]] = {
            "decoder": {d: {"decoder": d} for d in (("plain", "adapted") if adapted else ("plain",))},
            "component": {c: {"component": c} for c in components},
            "margin": {str(m): {"box_margin": m} for m in (base.box_margin, *sorted(margins - {base.box_margin}))},
            "shape": {
                _words(op, size): {"morphology": op, "morphology_size": size}
                for op, size in dict.fromkeys((own_shape, *shapes))
            },
            "stages": {
                " > ".join("+".join(stage.prompts) for stage in s): {"stages": s}
                for s in dict.fromkeys((own_stages, *stages))
            },
        }
        return cls(base, backend, axes, fusion)

    def labels(self) -> dict[str, list[str]]:
        """Each axis with its labels, the base recipe's first (of decoders: plain)."""
        return {axis: list(values) for axis, values in self.axes.items()}

    def first_cells(self) -> list[Cell]:
        """What every search tries: the base recipe with each decoder, then one change at a time."""
        labels = self.labels()
        plain = {axis: values[0] for axis, values in labels.items()}
        last = plain | {"decoder": labels["decoder"][-1]}
        changes = [{"component": "all"}, {"component": "largest"}, {"margin": "0.06"}]
        if len(labels["stages"]) > 1:
            changes.append({"stages": labels["stages"][1]})
        cells = [plain, last, *(last | change for change in changes)]
        return [cell for index, cell in enumerate(cells) if cell not in cells[:index]]

    def recipe(self, cell: Mapping[str, str]) -> Recipe:
        """The recipe of a cell, SAM's own mask being its result."""
        changes: dict[str, Any] = {"source": "sam"}
        for axis, label in cell.items():
            changes |= self.axes[axis][label]
        if changes["stages"] == self.base.stages_for(self.backend):
            changes["stages"] = self.base.stages
        return self.base.model_copy(update=changes)

    def sources(self, recipe: Recipe) -> list[Recipe]:
        """What may be made of one decoding at no cost: SAM's mask, or its logits and the student's together."""
        if not self.fusion:
            return [self.sam_alone(recipe)]
        weights = sorted({*_WEIGHTS, self.base.fusion_weight})
        return [
            self.sam_alone(recipe),
            *(recipe.model_copy(update={"source": "fused", "fusion_weight": w}) for w in weights),
            recipe.model_copy(update={"source": "border", "fusion_weight": 0.5}),
        ]

    def sam_alone(self, recipe: Recipe) -> Recipe:
        """The same decoding with SAM's own mask as the result."""
        return recipe.model_copy(update={"source": "sam", "fusion_weight": self.base.fusion_weight})

    def students(self) -> list[Recipe]:
        """The student's own masks, as they are and with each rule of components."""
        components = dict.fromkeys(("all", self.base.component, *_COMPONENTS))
        return [self.base.model_copy(update={"source": "student", "component": c}) for c in components]

    def rivals(self, recipes: Sequence[Recipe]) -> tuple[list[int | None], int]:
        """What ``choice.decide`` asks of recipes in the order of ``complexity``: ``sam`` and ``few``."""
        position = {recipe: index for index, recipe in enumerate(recipes)}
        sam = [None if recipe.source == "student" else position[self.sam_alone(recipe)] for recipe in recipes]
        return sam, sum(self.complexity(recipe)[:2] < (1, 1) for recipe in recipes)

    def complexity(self, recipe: Recipe) -> tuple[float, ...]:
        """Sorts recipes, the simplest first.

        The student's mask as it is; with another rule of components; SAM with the base recipe, plain, then adapted;
        both fused; and last what departs from the base recipe, by the number of departures.
        """
        if recipe.source == "student":
            return (0, ("all", self.base.component, *_COMPONENTS).index(recipe.component))
        base = self.base
        departures = (
            (recipe.component != base.component)
            + (recipe.box_margin != base.box_margin)
            + (_shape(recipe) != _shape(base))
            + (recipe.stages_for(self.backend) != base.stages_for(self.backend))
        )
        uneven = 0.0 if recipe.source == "sam" else abs(recipe.fusion_weight - 0.5)
        return (1, departures, _SOURCES.index(recipe.source), recipe.decoder == "adapted", uneven)


def _shape(recipe: Recipe) -> tuple[str, int]:
    return recipe.morphology, 8 if recipe.morphology == "none" else recipe.morphology_size


def _words(operation: str, size: int) -> str:
    return operation if operation == "none" else f"{operation} {size}"


def _suitable_stages(backend: str) -> tuple[tuple[Stage, ...], ...]:
    """Stages that the backend was trained for."""
    if backend in _BOX_ONLY:
        return (BOX_STAGES,)
    return PAPER_STAGES, BOX_STAGES, (Stage(prompts=("box", "positive")),), (Stage(prompts=("box", "mask")),)


def _paper_stages() -> tuple[tuple[Stage, ...], ...]:
    """The paper's twelve: three prompts, each alone or followed by one of the three with the first's logits."""
    kinds: tuple[tuple[Any, ...], ...] = (("box",), ("positive", "negative"), ("positive",))
    firsts = [Stage(prompts=kind) for kind in kinds]
    seconds = [Stage(prompts=(*kind, "logits")) for kind in kinds]
    return tuple((first, *rest) for first in firsts for rest in ((), *((second,) for second in seconds)))
