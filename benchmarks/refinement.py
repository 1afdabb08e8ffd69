"""Times of coarse masks, prompts, two-stage refinement and embedding (first three measurements of issue 2).

    python benchmarks/refinement.py [--runs 7] [--threads 2]

17 ellipses at 384x224 that overlap like wrist bones, each with a second component that has to be removed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from samstudent.sam import lite_medsam
from samstudent.sam.decode import decode_structures
from samstudent.sam.embedding import Embedding
from samstudent.sam.model import SamModel
from samstudent.sam.prompts import box_of, coarse_masks, inner_point, negative_points
from samstudent.sam.segment_anything import SegmentAnything
from samstudent.sam.slice_refinement import SliceRefiner
from samstudent.task import PAPER_STAGES, Recipe

SHAPE, STRUCTURES = (384, 224), 17
NAMES = [f"bone {i}" for i in range(STRUCTURES)]


def draw(rng: np.random.Generator) -> tuple[Any, Any]:
    """Probabilities float32 (17, 384, 224) and the image uint8 (384, 224, 3) they are of."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    probabilities = np.zeros((STRUCTURES, *SHAPE), np.float32)
    for i, probability in enumerate(probabilities):
        centre = 30 + 52 * (i // 3), 40 + 70 * (i % 3)
        radii = rng.uniform(18, 45), rng.uniform(12, 30)
        distance = np.hypot((y - centre[0]) / radii[0], (x - centre[1]) / radii[1])
        probability[:] = 1 / (1 + np.exp(12 * (distance - 1)))
        v, u = int(rng.integers(0, 374)), int(rng.integers(0, 214))
        probability[v : v + 8, u : u + 6] = 0.6
    grey = 40 + 150 * probabilities.max(axis=0) + rng.normal(0, 6, SHAPE)
    return probabilities, np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def vit_b_decoder() -> SamModel:
    """ViT-B's prompt encoder and mask decoder with random weights; the encoder, which is not timed, is a tiny one."""

    def build() -> Sam:
        return Sam(
            ImageEncoderViT(depth=1, embed_dim=32, num_heads=1, out_chans=256, global_attn_indexes=(), window_size=14),
            PromptEncoder(256, (64, 64), (1024, 1024), 16),
            MaskDecoder(transformer_dim=256, transformer=TwoWayTransformer(2, 256, 8, 2048)),
        ).eval()

    return SegmentAnything("vit_b", "0" * 64, build)


def clean_up_and_prompts(probabilities: Any, recipe: Recipe) -> None:
    masks = [mask for mask in coarse_masks(probabilities, recipe) if mask.any()]
    for mask in masks:
        box_of(mask)
    negative_points(masks, [inner_point(mask) for mask in masks])


def decode_and_fuse(refiner: SliceRefiner, probabilities: Any, embedding: Embedding) -> None:
    coarse = coarse_masks(probabilities, refiner.recipe_list)
    refiner.fuse(probabilities, coarse, decode_structures(coarse, embedding, refiner.plans()))


def median(function: Callable[[], object], runs: int) -> str:
    """Median and fastest of several runs, and the median of the processor time over all threads, in ms.

    After one run to warm up. The processor time says more than the clock where others use the machine too.
    """
    function()
    clock, processor = [], []
    for _ in range(runs):
        start, used = time.perf_counter(), time.process_time()
        function()
        clock.append(1000 * (time.perf_counter() - start))
        processor.append(1000 * (time.process_time() - used))
    return f"{statistics.median(clock):9.0f}{min(clock):9.0f}{statistics.median(processor):9.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    timed = partial(median, runs=arguments.runs)
    probabilities, image = draw(np.random.default_rng(0))
    recipe = Recipe(stages=PAPER_STAGES)
    title = f"{STRUCTURES} structures, {SHAPE[0]}x{SHAPE[1]}, {arguments.threads} threads"
    print(f"{title + ', ms':40}   median  fastest      cpu   target")
    print(f"{'clean-up and prompts':40}{timed(lambda: clean_up_and_prompts(probabilities, recipe))}       50")
    backends = {"LiteMedSAM": lite_medsam.load(), "ViT-B": vit_b_decoder()}
    for name, backend in backends.items():
        embedding = backend.embed(image)
        refiner = SliceRefiner(backend, None, dict.fromkeys(NAMES, recipe), overlap=True, adapted={})
        refine = partial(decode_and_fuse, refiner, probabilities, embedding)
        for loops in (True, False):
            backend.one_by_one = loops
            how = "loop" if loops else "batches"
            print(f"{f'two stages, {name} decoder, {how}':40}{timed(refine)}     2000", flush=True)
    print(f"{'LiteMedSAM embedding':40}{timed(lambda: backends['LiteMedSAM'].embed(image))}      700")


if __name__ == "__main__":
    main()
