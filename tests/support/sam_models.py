"""Small segment-anything with random weights, and the real packaged LiteMedSAM."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from samstudent.sam import lite_medsam
from samstudent.sam.segment_anything import SegmentAnything


def build_tiny_sam(side: int = 256, channels: int = 256) -> Any:
    """Sam with a two-layer encoder on ``side`` pixels; prompt encoder and mask decoder of full size with 256 channels.
    Seeded."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        grid = side // 16
        sam = Sam(
            image_encoder=ImageEncoderViT(
                img_size=side,
                patch_size=16,
                embed_dim=32,
                depth=2,
                num_heads=2,
                mlp_ratio=2,
                out_chans=channels,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=4,
                global_attn_indexes=(1,),
            ),
            prompt_encoder=PromptEncoder(
                embed_dim=channels, image_embedding_size=(grid, grid), input_image_size=(side, side), mask_in_chans=16
            ),
            mask_decoder=MaskDecoder(
                num_multimask_outputs=3,
                transformer=TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=8 * channels, num_heads=8),
                transformer_dim=channels,
                iou_head_depth=3,
                iou_head_hidden_dim=channels,
            ),
        )
    return sam.eval()


@pytest.fixture(scope="session")
def tiny() -> SegmentAnything:
    """The small SAM as a backend named vit_b, so that the paper's stages apply."""
    return SegmentAnything("vit_b", "0" * 64, build_tiny_sam, "cpu")


@pytest.fixture(scope="session")
def small() -> SegmentAnything:
    """A smaller one that is trained in seconds; its answers have 32 pixels."""
    return SegmentAnything("vit_b", "0" * 64, lambda: build_tiny_sam(128, 64), "cpu")


@pytest.fixture(scope="session")
def tiny_sam() -> Any:
    """The same model as segment-anything's own ``Sam``."""
    return build_tiny_sam()


@pytest.fixture(scope="session")
def lite() -> lite_medsam.LiteMedSam:
    """The embedded LiteMedSAM with its real weights."""
    return lite_medsam.load("cpu")
