"""SAM refinement behind a network in a MONAI pipeline; a drawn disk and a prediction with gaps stand for its data."""

import numpy as np
import torch
from monai.transforms import Activationsd, CastToTyped, Compose, RepeatChanneld, ScaleIntensityRangePercentilesd

from samstudent.sam import Refiner, SamRefined, load_backend
from samstudent.task import Recipe, SamSection

y, x = np.mgrid[:256, :256]
truth = (y - 120) ** 2 + (x - 140) ** 2 <= 60**2
image = torch.from_numpy(np.where(truth, 900.0, 300.0) + np.random.default_rng(0).normal(0, 40, truth.shape))[None]
logits = torch.where(torch.from_numpy(truth & ((y % 4 > 0) | (x > 140))), 3.0, -3.0)[None]

# The embedded LiteMedSAM; names of the structures in the order of the network's channels, each with a recipe.
refiner = Refiner(load_backend(SamSection()), None, {"disk": Recipe()}, overlap=False)
post = Compose(
    [
        Activationsd("pred", sigmoid=True),
        # SAM sees 8 bits and three channels.
        ScaleIntensityRangePercentilesd("image", lower=0.5, upper=99.5, b_min=0, b_max=255, clip=True),
        RepeatChanneld("image", repeats=3),
        CastToTyped("image", dtype=np.uint8),
        SamRefined("pred", refiner, channel_dim=0),
    ]
)
data = post({"image": image, "pred": logits})
masks = np.asarray(data["pred"]).astype(bool)
(disk,) = data["pred_refinement"].structures
coarse = np.asarray(logits[0] > 0)
coarse_dice = 2 * (coarse & truth).sum() / (coarse.sum() + truth.sum())
refined_dice = 2 * (masks[0] & truth).sum() / (masks[0].sum() + truth.sum())
print(f"Dice {coarse_dice:.2f} -> {refined_dice:.2f}; SAM estimates {disk.predicted_iou:.2f}")
