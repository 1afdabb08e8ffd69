"""SAM's mask decoder, computed for training on a CPU: the same weights and numbers in less than half of the time.

segment-anything's own forward pass moves much memory: it copies the image for every prompt, leaves bfloat16 wherever
something in float32 is added, draws four masks, and normalises over channels that lie far apart. Here the image's
tokens keep one layout and one precision, prompts share them up to the first layer that they change, transposed
convolutions (whose kernels do not overlap) are matrix products, and one mask is drawn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


def fits(decoder: Any) -> bool:
    """Whether it is segment-anything's architecture, as in all SAMs but SAM 2."""
    return not hasattr(decoder, "conv_s0") and hasattr(decoder, "output_hypernetworks_mlps")


def decode(
    decoder: Any, features: torch.Tensor, positions: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``MaskDecoder.forward`` with ``multimask_output=False``.

    Args:
        decoder: segment-anything's ``MaskDecoder``.
        features: of one image (1, C, h, w).
        positions: their positional encoding (1, C, h, w).
        sparse: of N prompts (N, T, C).
        dense: of the prompts' masks (N, C, h, w), or (1, C, h, w) where all have the same.

    Returns:
        Logits (N, 4h, 4w) and predicted IoU (N,).
    """
    count, (height, width) = len(sparse), features.shape[-2:]
    kind = features.device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None].expand(count, -1, -1)
    tokens = torch.cat([tokens, sparse], dim=1)
    image = (features + dense).flatten(2).transpose(1, 2).to(half)
    place = positions.flatten(2).transpose(1, 2).to(half)
    queries = tokens
    for layer in decoder.transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            placed = queries + tokens
            queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
        queries = layer.norm1(queries)
        keys = image + place
        queries = queries + _attend(layer.cross_attn_token_to_image, queries + tokens, keys, image)
        queries = layer.norm2(queries)
        queries = layer.norm3(queries + layer.mlp(queries))
        change = _attend(layer.cross_attn_image_to_token, keys, queries + tokens, queries)
        image = _norm(image + change.to(half), layer.norm4)
    final = decoder.transformer.final_attn_token_to_image
    queries = queries + _attend(final, queries + tokens, image + place, image)
    queries = decoder.transformer.norm_final_attn(queries)
    iou = decoder.iou_prediction_head(queries[:, 0])[:, 0]
    hyper = decoder.output_hypernetworks_mlps[0](queries[:, 1])
    first, norm, activation, second, last = decoder.output_upscaling
    pixels = _upscaled(image, first)  # (N, h w 4, C / 4)
    pixels = _upscaled(activation(_norm(pixels, norm)), second)  # (N, h w 4 4, C / 8)
    logits = torch.bmm(last(pixels), hyper.to(pixels.dtype)[:, :, None])
    # Each token's 2x2 pixels, and each of these' 2x2.
    logits = logits.view(count, height, width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
    return logits.reshape(count, 4 * height, 4 * width), iou


def _attend(attention: Any, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """segment-anything's ``Attention`` for (N, T, C), where one side may be the same for all prompts (1, T, C).

    Not ``scaled_dot_product_attention``: its gradient took two fifths of a step on a CPU, for a handful of tokens.
    """

    def heads(linear: Any, x: torch.Tensor) -> torch.Tensor:
        return linear(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)

    q, k, v = heads(attention.q_proj, queries), heads(attention.k_proj, keys), heads(attention.v_proj, values)
    scale = q.shape[-1] ** -0.5
    if q.shape[2] > k.shape[2]:
        # The many pixels last: a softmax over the last, short axis is slow.
        shares = ((k @ q.transpose(2, 3)) * scale).softmax(2).transpose(2, 3)
    else:
        shares = ((q @ k.transpose(2, 3)) * scale).softmax(3)
    answer: torch.Tensor = attention.out_proj((shares @ v).transpose(1, 2).flatten(2))
    return answer


def _norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """A ``LayerNorm`` or ``LayerNorm2d`` over the last axis, in the precision of ``x``."""
    return F.layer_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _upscaled(x: torch.Tensor, convolution: Any) -> torch.Tensor:
    """A ``ConvTranspose2d`` of kernel and stride 2 on pixels (N, P, C): its 2x2 pixels each (N, P 4, C')."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return F.linear(x, weight, convolution.bias.repeat(4)).unflatten(2, (4, -1)).flatten(1, 2)
