"""Task file: structures, images, training and refinement.

A task is one YAML file. All keys but ``name``, ``dimension`` and ``structures`` have a default. Unknown keys are
refused: a misspelt key must not silently have its default. The module is one table of keys, and therefore long.
"""

from __future__ import annotations

import math
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from samstudent.errors import NotFound, UserError
from samstudent.util.dicom_codes import Code, own_code

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.\-]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1)]
#: Number of optimisation steps, or as many as it takes until a student has converged.
Steps = Literal["auto"] | Annotated[int, Field(ge=1)]
Unmentioned = Literal["absent", "unknown"]
#: Sources of a recipe's mask, from the simplest.
MaskSource = Literal["student", "plain_sam", "sam", "fused"]
PromptKind = Literal["box", "positive", "negative", "logits", "mask"]


#: Value of ``image.sam_channel``: SAM sees the first three channels as colours.
COMPOSITE = "composite"
#: Factor by which the deepest features of a network with an encoder are smaller than the image.
ENCODER_REDUCTION = 32


def multiple(times: int, steps: Steps) -> Steps:
    """A multiple of a number of steps; ``auto`` stays."""
    return steps if steps == "auto" else times * steps


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageSection(_Section):
    """Intensities of student and SAM from stored values."""

    intensity: Literal["auto", "window", "percentile"] = Field(
        default="auto",
        description="`auto`: the DICOM window if the file has one, else percentiles. `window`: from `low` to `high` "
        "in the file's units (Hounsfield for CT). `percentile`: from the `low`-th to the `high`-th percentile of "
        "the image.",
    )
    low: float = Field(
        default=0.5,
        description="Value or percentile that becomes black; below `high`, and with `percentile` from 0 to 100.",
    )
    high: float = Field(default=99.5, description="Value or percentile that becomes white.")
    channels: Literal[1, 3] | dict[Name, str] = Field(
        default=1,
        description="Input channels of the student. 1: luminance. 3: red, green, blue (grey images are repeated). "
        "SAM always has three. Names, e.g. `[T1, T2, FLAIR]` or `{T1: _0000, T2: _0001}`: registered sequences, each "
        "with its own intensity range ([how](../how-to/channels.md)).",
    )
    sam_channel: str | None = Field(
        default=None,
        description="With named `channels`: the one that SAM and the viewers see, or `composite`: the first three as "
        "red, green and blue for SAM. None: the first.",
    )

    @property
    def count(self) -> int:
        """Number of input channels of the student."""
        return self.channels if isinstance(self.channels, int) else len(self.channels)

    @property
    def sequences(self) -> dict[str, str]:
        """Named channels with the text by which their files or series are recognised; empty: grey or colours."""
        return {} if isinstance(self.channels, int) else self.channels

    @field_validator("channels", mode="before")
    @classmethod
    def _sequences_may_be_listed(cls, value: object) -> object:
        """``[T1, T2]`` is short for ``{T1: _T1, T2: _T2}``."""
        if isinstance(value, list):
            if len(set(map(str, value))) != len(value):
                raise ValueError("a channel is listed twice")
            return {name: f"_{name}" for name in value}
        return value

    @field_validator("channels")
    @classmethod
    def _sequences_are_recognised(cls, value: int | dict[str, str]) -> int | dict[str, str]:
        if isinstance(value, dict):
            if not value or COMPOSITE in value:
                raise ValueError(f"names of one or more channels, none of them {COMPOSITE!r}, or 1 or 3")
            plain = [text.strip().casefold() for text in value.values()]
            if "" in plain or len(set(plain)) < len(plain):
                raise ValueError("each channel needs a text of its own, by which its files or series are recognised")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> ImageSection:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.intensity == "percentile" and not 0 <= self.low < self.high <= 100:
            raise ValueError("percentiles lie between 0 and 100")
        if self.sam_channel is not None and self.sam_channel not in (*self.sequences, COMPOSITE):
            raise ValueError(f"sam_channel must be one of the named channels or {COMPOSITE}, not {self.sam_channel!r}")
        return self


class StudentSection(_Section):
    """The small network that is trained and served."""

    network: Literal["efficientnet_lite0", "efficientnet_lite2", "timm", "unet", "segresnet", "basicunet"] = Field(
        default="efficientnet_lite0",
        description="2D: `efficientnet_lite0` or the larger `efficientnet_lite2`, U-Nets with an encoder that was "
        "pretrained on ImageNet and comes embedded; `timm`: with the encoder of `encoder` and `checkpoint`. `unet` "
        "(the default in 3D and with `channels`), `segresnet`, `basicunet`: MONAI's networks, with random weights.",
    )
    encoder: str | None = Field(
        default=None, description="Name of a convolutional network of timm, e.g. `convnext_tiny`; with `network: timm`."
    )
    checkpoint: Path | None = Field(
        default=None,
        description="File of its pretrained weights, with timm's names (.pth). A relative path is relative to the task "
        "file.",
    )
    size: tuple[int, ...] = Field(
        default=(256, 256),
        description="Input of the network, (y, x) or (z, y, x), in pixels. 2D images are fitted into it, with their "
        "aspect; volumes are resampled to `spacing` and processed by a sliding window of this size. Multiples of 32 "
        "(with `unet`, `segresnet` and `basicunet` of 16).",
    )
    spacing: tuple[float, float, float] = Field(
        default=(1.0, 1.0, 1.0), description="Voxel size (z, y, x) in mm to which volumes are resampled; 3D only."
    )
    channels: tuple[int, ...] | None = Field(
        default=None,
        description="Feature channels of each level of `unet`, `segresnet` or `basicunet`. None: 16, 32, 64, 128, 256.",
    )

    @field_validator("size")
    @classmethod
    def _size(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(v < 16 or v % 16 for v in value):
            raise ValueError(f"every side of size must be a multiple of 16, at least 16, not {list(value)}")
        return value

    @property
    def has_encoder(self) -> bool:
        """Whether the network has a pretrained encoder."""
        return self.network not in ("unet", "segresnet", "basicunet")

    @model_validator(mode="after")
    def _encoder_and_weights(self) -> StudentSection:
        own = self.encoder is not None, self.checkpoint is not None
        if self.network == "timm" and not all(own):
            raise ValueError("network timm needs 'encoder', a name of timm, and 'checkpoint', the path of its weights")
        if self.network != "timm" and any(own):
            raise ValueError(f"encoder and checkpoint belong to network timm, not to {self.network}")
        if not self.has_encoder:
            return self
        if self.channels is not None:
            raise ValueError(f"channels belong to network unet, segresnet or basicunet, not to {self.network}")
        if len(self.size) == 2 and any(side % ENCODER_REDUCTION for side in self.size):
            raise ValueError(
                f"with network {self.network} every side of size must be a multiple of {ENCODER_REDUCTION}, not "
                f"{list(self.size)}"
            )
        return self


class SamSection(_Section):
    """The Segment Anything Model of the refinement."""

    backend: Literal["lite_medsam", "vit_b", "vit_l", "vit_h", "medsam"] = Field(
        default="lite_medsam",
        description="SAM model. `lite_medsam` is part of the installation; the others are segment-anything's models "
        "and MedSAM (a `vit_b`), with weights in `checkpoint`.",
    )
    checkpoint: Path | None = Field(
        default=None,
        description="File of the weights (.pth), for all backends except `lite_medsam`. A relative path is relative to "
        "the task file.",
    )
    sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="Expected SHA-256 of the checkpoint; another one is an error. None: not checked.",
    )

    @model_validator(mode="after")
    def _has_weights(self) -> SamSection:
        if self.backend != "lite_medsam" and self.checkpoint is None:
            raise ValueError(f"backend {self.backend} needs 'checkpoint', the path of its weights")
        return self


class Stage(_Section):
    """One call of SAM's decoder for each structure."""

    prompts: tuple[PromptKind, ...] = Field(
        description="Prompts of this call: `box`, `positive` (the deepest point of the structure), `negative` (those "
        "of the others), `logits` (of the stage before) or `mask` (the coarse mask)."
    )

    @field_validator("prompts")
    @classmethod
    def _sensible(cls, value: tuple[PromptKind, ...]) -> tuple[PromptKind, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("prompts must be a list without repeats, e.g. [box] or [positive, negative, logits]")
        if not {"box", "positive"} & set(value):
            raise ValueError("a stage needs a box or a positive point: SAM only echoes a mask given alone")
        if {"logits", "mask"} <= set(value):
            raise ValueError("SAM takes one mask input: 'logits' or 'mask', not both")
        return value


#: Paper, section 2.2: a box first, then points with the logits of the first stage.
PAPER_STAGES = (Stage(prompts=("box",)), Stage(prompts=("positive", "negative", "logits")))
#: Models that were trained with boxes only: their point prompts were never trained.
BOX_MODELS = ("lite_medsam", "medsam")
#: For ``BOX_MODELS``.
BOX_STAGES = (Stage(prompts=("box",)),)


class Recipe(_Section):
    """Coarse mask from the student's probabilities, SAM's prompts from the coarse mask, and source of the result.

    Pixels are those of the working grid, at most 512 a side.
    """

    threshold: Share = Field(default=0.5, description="Lowest probability of a pixel of the coarse mask.")
    component: Literal["probable", "largest", "all"] = Field(
        default="probable",
        description="Connected component of the coarse mask that is kept: the one of the highest mean probability (as "
        "in the paper), the largest, or all.",
    )
    morphology: Literal["none", "dilate", "erode", "open", "close"] = Field(
        default="none",
        description="Morphological operation on the coarse mask before box and mask prompts are drawn from it.",
    )
    morphology_size: int = Field(
        default=8, ge=1, le=200, description="Side of the square footprint of `morphology`, in pixels."
    )
    min_size: int = Field(default=4, ge=1, description="Size in pixels below which a component counts as noise.")
    box_margin: float = Field(
        default=0.0, ge=0, le=1, description="Widening of the box on every side, as a share of that side."
    )
    stages: tuple[Stage, ...] | None = Field(
        default=None,
        description="Calls of SAM's decoder, each with its prompts. None: the box alone for models that were trained "
        "with boxes only (`lite_medsam`, `medsam`), else the paper's two stages: the box; then points with the logits "
        "of the first.",
    )
    source: MaskSource = Field(
        default="sam",
        description="Source of the refined mask. `sam`: SAM, with the adapted decoder where there is one; `plain_sam`: "
        "SAM with the published one; `student`: the student's coarse mask; `fused`: mean of the logits of `sam` and "
        "student. With `pseudo_labels.policy: learned` it is chosen for each structure.",
    )
    axis: Literal["auto", "z", "y", "x"] = Field(
        default="auto",
        description="Volumes: the axis along which they are cut into slices. `auto`: across the longest voxels, else "
        "where the structures take the fewest slices.",
    )
    slice_step: int = Field(
        default=1,
        ge=1,
        le=20,
        description="Volumes: SAM is run on every n-th slice of a structure, and its logits are interpolated in "
        "between.",
    )

    @field_validator("stages")
    @classmethod
    def _any_stage(cls, value: tuple[Stage, ...] | None) -> tuple[Stage, ...] | None:
        # Not Field(min_length=1): pydantic would report that, too, for a list whose only stage has a fault.
        if value == ():
            raise ValueError("needs at least one stage; leave the key out for the backend's own")
        return value

    @model_validator(mode="after")
    def _logits_come_from_somewhere(self) -> Recipe:
        if self.stages and "logits" in self.stages[0].prompts:
            raise ValueError("the first stage has no earlier logits; use 'mask' to feed the coarse mask")
        return self

    def stages_for(self, backend: str) -> tuple[Stage, ...]:
        """Stages of a backend: the task's, else the paper's two, or the box for models trained with boxes only."""
        if self.stages:
            return self.stages
        return BOX_STAGES if backend in BOX_MODELS else PAPER_STAGES


class TrainingSection(_Section):
    """Training of a student, in steps: its time is independent of the number of cases."""

    steps: Steps = Field(
        default="auto",
        description="Optimisation steps of a training. `auto`: until its Dice has stopped rising, within `budget`.",
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        description="Longest time of a training with `steps: auto`, in minutes. In a round the students on folds and "
        "on all labels share it; the student that continues with pseudo labels has a quarter more. In an experiment "
        "each training has it whole. None: 30 on a CPU, 60 on a GPU.",
    )
    batch_size: int = Field(default=6, ge=1, description="Cases, or windows of volumes, in a batch.")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Highest learning rate, after a short rise. None: 0.002 with a pretrained encoder, else 0.003.",
    )
    seed: int = Field(default=0, description="Seed of weights, batches, folds and augmentation.")
    rotate: float = Field(
        default=15.0, ge=0, le=180, description="Augmentation: largest rotation, in degrees, in the plane of the image."
    )
    zoom: Share = Field(default=0.1, description="Augmentation: largest change of size, as a share.")
    shift: Share = Field(default=0.05, description="Augmentation: largest shift, as a share of the side.")
    mirror: tuple[Literal["x", "y", "z"], ...] = Field(
        default=(), description="Augmentation: axes along which images may be mirrored."
    )
    intensity: Share = Field(
        default=0.4,
        description="Augmentation: strength of changes of contrast, brightness, blur and noise; 0 switches them off.",
    )

    @field_validator("steps", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        if value != "auto" and not (isinstance(value, int) and value >= 1):
            raise ValueError("a number of at least 1, or auto")
        return value

    def budget_seconds(self, device: str) -> float:
        """Longest time of a training with ``steps: auto`` on a type of device ("cpu", "cuda")."""
        return 60 * (self.budget or (30 if device == "cpu" else 60))


class PseudoLabelSection(_Section):
    """Pseudo labels and their quality filter."""

    threshold: Share | dict[str, Share] = Field(
        default=0.6,
        description="Lowest quality (estimated Dice) at which a refined structure is used for training: one number, or "
        "one for each structure (others take the default).",
    )
    folds: int = Field(
        default=3,
        ge=2,
        le=10,
        description="Number of folds of the cross-fitting: one student is trained without each part of the labelled "
        "cases, and one on all of them.",
    )
    policy: Literal["learned", "fixed"] = Field(
        default="learned",
        description="learned: SAM is adapted, each structure's recipe is chosen and quality is estimated on "
        "out-of-fold predictions of the labelled cases, from three of them on. fixed: the task's recipe, the plain SAM "
        "and a formula of quality.",
    )


class HoldOutSection(_Section):
    """Cases for the comparison of models, which are never used for training."""

    fraction: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of all cases that is held out, drawn when a case is first listed. Rows `val` and `test` "
        "of `split.csv` have precedence.",
    )


class ActiveLearningSection(_Section):
    """Selection of the next case for an annotator."""

    strategy: Literal["uniform", "entropy", "disagreement", "diversity", "mixed"] = Field(
        default="mixed",
        description="The strategy that also has the name `random`, the only one that OHIF requests.",
    )
    reserve_minutes: float = Field(
        default=30.0,
        ge=0,
        description="Minutes for which a case that was offered to one client is not offered to another.",
    )


class ScheduleSection(_Section):
    """Automatic start of rounds. `every_labels` and `at` may both be set; without any, rounds are started manually."""

    every_labels: int | None = Field(
        default=None, ge=1, description="A round starts after this many new or changed human labels."
    )
    at: str | None = Field(
        default=None,
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
        description='A round starts at this time of day, `"HH:MM"` in quotes, in the server\'s time zone, if there is '
        "a new human label.",
    )

    repeat: bool = Field(
        default=True,
        description="After a round whose student is served and has a mean Dice more than 0.5 points higher, another "
        "round on the same labels starts.",
    )

    @field_validator("at", mode="before")
    @classmethod
    def _quoted(cls, value: object) -> object:
        if isinstance(value, int):
            # YAML 1.1 takes an unquoted 12:30 for the number 750.
            raise ValueError('write the time in quotes, "HH:MM"')
        return value

    @property
    def automatic(self) -> bool:
        """Whether rounds start automatically."""
        return self.every_labels is not None or self.at is not None


class Task(_Section):
    """A checked task file, made by ``load_task``."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]{0,63}$",
        description="Name of the folder of the task's rounds, `<studies>/.samstudent/<name>/`: two tasks of one study "
        "need two names.",
    )
    description: str = Field(default="", description="One line for users.")
    dimension: Literal[2, 3] = Field(
        description="Dimension of the images: 2 (radiographs, ultrasound, photographs) or 3 (CT, MR)."
    )
    structures: dict[Name, int] = Field(
        min_length=1,
        max_length=250,
        description="Structures: names with label values 1, 2, 3, ... without a gap. Short form: a list, "
        "`[nerve, vessel]`. `background` and `ignore` are not allowed.",
    )
    codes: dict[Name, Code] = Field(
        default={},
        description='Code of each structure in DICOM segmentations, e.g. `heart: {value: "80891009", meaning: Heart}`. '
        "Structures without a code are coded by name (scheme `99SAMSTUDENT`). Segmentations of other software are "
        "recognised by the codes, independent of the names of their segments.",
    )
    overlap: bool = Field(
        default=False,
        description="Whether structures may share pixels, as bones on a projection do: one sigmoid each instead of a "
        "softmax.",
    )
    unmentioned: Unmentioned | dict[Name, Unmentioned] = Field(
        default="absent",
        description="Meaning of a human label for a structure that it does not mention: it is absent, or not known "
        "(`unknown`). One value for all structures, or one for each; others are `absent`. Definition of mentioned: "
        "[own data](../how-to/own-data.md#structures-that-a-label-leaves-open).",
    )
    image: ImageSection = Field(default=ImageSection(), description="Intensities from stored values.")
    student: StudentSection = Field(default=StudentSection(), description="The network that is trained and served.")
    sam: SamSection = Field(default=SamSection(), description="The Segment Anything Model.")
    recipe: Recipe = Field(default=Recipe(), description="Coarse mask, prompts and source of the result.")
    training: TrainingSection = Field(default=TrainingSection(), description="Training of the student.")
    pseudo_labels: PseudoLabelSection = Field(
        default=PseudoLabelSection(), description="Pseudo labels and their quality filter."
    )
    holdout: HoldOutSection = Field(default=HoldOutSection(), description="Cases for the comparison of models.")
    active_learning: ActiveLearningSection = Field(
        default=ActiveLearningSection(), description="Selection of the next case."
    )
    schedule: ScheduleSection = Field(default=ScheduleSection(), description="Automatic start of rounds.")

    @model_validator(mode="before")
    @classmethod
    def _policy_by_its_former_key(cls, content: object) -> object:
        """``trust: {enabled: false}`` is ``pseudo_labels: {policy: fixed}``: task files of our users have it."""
        if not isinstance(content, dict) or not isinstance(former := content.get("trust"), dict):
            return content
        if set(former) != {"enabled"} or not isinstance(former["enabled"], bool):
            raise ValueError("trust is no key any more; write pseudo_labels: {policy: learned} or {policy: fixed}")
        policy = "learned" if former["enabled"] else "fixed"
        pseudo_labels = content.get("pseudo_labels", {})
        if not isinstance(pseudo_labels, dict) or pseudo_labels.get("policy", policy) != policy:
            raise ValueError(f"trust and pseudo_labels disagree; write pseudo_labels: {{policy: {policy}}} alone")
        rest = {key: value for key, value in content.items() if key != "trust"}
        return rest | {"pseudo_labels": {**pseudo_labels, "policy": policy}}

    @model_validator(mode="before")
    @classmethod
    def _default_network(cls, content: object) -> object:
        """``unet`` in 3D, and where its channels or those of the image are given."""
        section = content.get("student", {}) if isinstance(content, dict) else None
        if not isinstance(content, dict) or not isinstance(section, dict):
            return content
        image = content.get("image")
        has_sequences = isinstance(image, dict) and isinstance(image.get("channels"), (list, dict))
        if content.get("dimension") != 3 and section.get("channels") is None and not has_sequences:
            return content
        return content | {"student": {"network": "unet"} | section}

    @field_validator("structures", mode="before")
    @classmethod
    def _names_may_be_listed(cls, value: object) -> object:
        """``[radius, ulna]`` is short for ``{radius: 1, ulna: 2}``."""
        if isinstance(value, list):
            if len(set(map(str, value))) != len(value):
                raise ValueError("a structure is listed twice")
            return {name: i for i, name in enumerate(value, 1)}
        return value

    @field_validator("structures")
    @classmethod
    def _contiguous(cls, value: dict[str, int]) -> dict[str, int]:
        if sorted(value.values()) != list(range(1, len(value) + 1)):
            # OHIF paints value i with the i-th name, so a gap would show wrong names (monailabel.md, OHIF infer).
            raise ValueError(f"label values must be 1 to {len(value)}, each once, not {sorted(value.values())}")
        if any(re.fullmatch("background|ignore", name, re.IGNORECASE) for name in value):
            raise ValueError("'background' and 'ignore' are no structures")
        return dict(sorted(value.items(), key=lambda item: item[1]))

    @model_validator(mode="after")
    def _batch_norm_has_values(self) -> Task:
        pixels = math.prod(self.student.size) // ENCODER_REDUCTION**2
        if self.student.has_encoder and self.training.batch_size * pixels < 2:
            raise ValueError(f"student.size {list(self.student.size)} needs a training.batch_size of at least 2")
        return self

    @model_validator(mode="after")
    def _fits_dimension(self) -> Task:
        if len(self.student.size) != self.dimension:
            raise ValueError(f"student.size needs {self.dimension} numbers, not {list(self.student.size)}")
        if self.dimension == 3 and self.student.has_encoder:
            raise ValueError(f"student.network: {self.student.network} is a network for 2D; use unet or segresnet")
        if self.student.has_encoder and self.image.count not in (1, 3):
            raise ValueError(
                f"student.network: {self.student.network} takes 1 or 3 channels, not {self.image.count}; use unet"
            )
        threshold = self.pseudo_labels.threshold
        if isinstance(threshold, dict) and (unknown := set(threshold) - set(self.structures)):
            raise ValueError(f"pseudo_labels.threshold names unknown structures {sorted(unknown)}")
        if isinstance(self.unmentioned, dict) and (unknown := set(self.unmentioned) - set(self.structures)):
            raise ValueError(f"unmentioned names unknown structures {sorted(unknown)}")
        if unknown := set(self.codes) - set(self.structures):
            raise ValueError(f"codes names unknown structures {sorted(unknown)}")
        if len({code.key for code in self.codes.values()}) < len(self.codes):
            raise ValueError("codes: two structures have the same code; set their 'side', or leave one out")
        if self.dimension == 2 and "z" in self.training.mirror:
            raise ValueError("training.mirror: a 2D image has no axis z")
        return self

    @property
    def names(self) -> list[str]:
        """Structure names in the order of their label values; the first axis of every stack of masks."""
        return list(self.structures)

    def code_of(self, structure: str) -> Code:
        """Code of a structure in DICOM segmentations."""
        return self.codes.get(structure) or own_code(structure)

    def unmentioned_of(self, structure: str) -> Unmentioned:
        """Meaning of a human label for a structure that it does not mention."""
        return self.unmentioned.get(structure, "absent") if isinstance(self.unmentioned, dict) else self.unmentioned

    def threshold_of(self, structure: str) -> float:
        """Lowest quality at which a pseudo label of this structure is used."""
        threshold = self.pseudo_labels.threshold
        return threshold.get(structure, 0.6) if isinstance(threshold, dict) else threshold


def shipped_tasks() -> list[str]:
    """Names of the task files that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _shipped().iterdir() if p.name.endswith(".yaml"))


def load_task(name_or_path: str | Path) -> Task:
    """Read and check a task file.

    Args:
        name_or_path: a shipped task's name ("wrist"), or the path of a YAML file.

    Raises:
        NotFound: there is no such file and no such shipped task.
        UserError: the file is no YAML mapping, or a key or value in it is not allowed; all faults are listed.
    """
    text = str(name_or_path)
    if Path(text).is_file():
        path = Path(text)
    elif text in shipped_tasks():
        path = Path(str(_shipped() / f"{text}.yaml"))
    else:
        raise NotFound(f"task {text!r}: no such file, and not one of the shipped tasks {', '.join(shipped_tasks())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a task file is a mapping with name, dimension and structures")
    for section in (content.get("sam"), content.get("student")):
        if isinstance(section, dict) and isinstance(checkpoint := section.get("checkpoint"), str):
            # A relative checkpoint is relative to the task file, not to the working directory.
            section["checkpoint"] = str((path.parent / Path(checkpoint).expanduser()).resolve())
    try:
        return Task.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(_fault(e) for e in error.errors())
        raise UserError(f"{path}: {faults}") from error


def _shipped() -> Path:
    """The folder of task files: inside the installed package, or beside lib/ in a source checkout."""
    package = Path(str(resources.files("samstudent")))
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def _fault(error: object) -> str:
    """Message of one pydantic error: "key: fault, allowed values"."""
    assert isinstance(error, dict)
    key = ".".join(str(part) for part in error["loc"]) or "task"
    if error["type"] == "extra_forbidden":
        section: type[BaseModel] = Task
        for part in error["loc"][:-1]:
            if part in section.model_fields:
                section = _section_in(section.model_fields[part].annotation) or section
        return f"{key}: unknown key; allowed here: {', '.join(section.model_fields)}"
    if error["type"] == "missing":
        return f"{key}: missing"
    # Without pydantic's prefix of our own messages.
    return f"{key}: {error['msg'].removeprefix('Value error, ')} (got {error.get('input')!r})"


def _section_in(annotation: object) -> type[BaseModel] | None:
    """Section in a key's type: of ``tuple[Stage, ...] | None`` it is Stage."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)
