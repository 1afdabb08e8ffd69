"""Forward pass of SAM's mask decoder for a CPU: the same weights and numbers in less time (in training less than half).

segment-anything's own forward pass is limited by memory: it copies the image for every prompt, leaves bfloat16 wherever
something in float32 is added, computes four masks, and normalises over channels that lie far apart in memory. Here the
image's tokens keep one layout and one precision, prompts share them up to the first layer that changes them, transposed
convolutions (whose kernels do not overlap) are matrix products, and one mask is computed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn import functional as F


class ImageTokens(NamedTuple):
    """Tokens of an image before any point or box: the part of the computation that prompts share.

    Attributes:
        image: tokens (1 or N, h w, C).
        place: their positional encoding (1, h w, C).
        projected: ``_projected`` for the first layer.
        size: h, w.
    """

    image: torch.Tensor
    place: torch.Tensor
    projected: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    size: tuple[int, int]


def image_tokens(decoder: Any, features: torch.Tensor, positions: torch.Tensor, dense: torch.Tensor) -> ImageTokens:
    """The part of ``MaskDecoder.forward`` that does not depend on points and boxes.

    Args:
        decoder: segment-anything's ``MaskDecoder``.
        features: of one image (1, C, h, w).
        positions: their positional encoding (1, C, h, w).
        dense: of N prompts' masks (N, C, h, w), or (1, C, h, w) where all have the same.
    """
    kind = features.device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    image = (features + dense).flatten(2).transpose(1, 2).to(half)
    place = positions.flatten(2).transpose(1, 2).to(half)
    projected = _projected(decoder.transformer.layers[0], image, place)
    return ImageTokens(image, place, projected, (features.shape[-2], features.shape[-1]))


def decode(decoder: Any, tokens: ImageTokens, sparse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``MaskDecoder.forward`` with ``multimask_output=False``.

    Args:
        decoder: segment-anything's ``MaskDecoder``.
        tokens: ``image_tokens``, with the prompts' masks.
        sparse: points and boxes of N prompts (N, T, C).

    Returns:
        Logits (N, 4h, 4w) and predicted IoU (N,).
    """
    count, (height, width) = len(sparse), tokens.size
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None].expand(count, -1, -1)
    prompt = torch.cat([outputs, sparse], dim=1)
    image, queries = tokens.image, prompt
    for number, layer in enumerate(decoder.transformer.layers):
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            placed = queries + prompt
            queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
        queries = layer.norm1(queries)
        keys, values, image_queries = tokens.projected if number == 0 else _projected(layer, image, tokens.place)
        to_image, to_prompt = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        queries = queries + _attend(to_image, _heads(to_image, "q", queries + prompt), keys, values)
        queries = layer.norm2(queries)
        queries = layer.norm3(queries + layer.mlp(queries))
        prompt_keys_values = _heads(to_prompt, "k", queries + prompt), _heads(to_prompt, "v", queries)
        image = _norm(image + _attend(to_prompt, image_queries, *prompt_keys_values).to(image.dtype), layer.norm4)
    final = decoder.transformer.final_attn_token_to_image
    keys, values = _heads(final, "k", image + tokens.place), _heads(final, "v", image)
    queries = queries + _attend(final, _heads(final, "q", queries + prompt), keys, values)
    queries = decoder.transformer.norm_final_attn(queries)
    iou = decoder.iou_prediction_head(queries[:, 0])[:, 0]
    hyper = decoder.output_hypernetworks_mlps[0](queries[:, 1])
    first, norm, activation, second, last = decoder.output_upscaling
    pixels = _upscaled(image, first)  # (N, h w 4, C / 4)
    pixels = _upscaled(activation(_norm(pixels, norm)), second)  # (N, h w 4 4, C / 8)
    logits = torch.bmm(last(pixels), hyper.to(pixels.dtype)[:, :, None])
    # 2x2 pixels of each token, and 2x2 of each of these.
    logits = logits.view(count, height, width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
    return logits.reshape(count, 4 * height, 4 * width), iou


def _projected(layer: Any, image: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Projections of the image: keys and values for attention from the prompt, queries for attention to the prompt."""
    to_image, placed = layer.cross_attn_token_to_image, image + place
    image_queries = _heads(layer.cross_attn_image_to_token, "q", placed)
    return _heads(to_image, "k", placed), _heads(to_image, "v", image), image_queries


def _heads(attention: Any, which: str, x: torch.Tensor) -> torch.Tensor:
    """The projection ``which`` (q, k, v) of tokens (N, T, C), by heads (N, H, T, c)."""
    projected: torch.Tensor = getattr(attention, f"{which}_proj")(x)
    return projected.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def _attend(attention: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """segment-anything's ``Attention`` of its projections, by heads; one side may be shared by all prompts.

    Not ``scaled_dot_product_attention``: its gradient took two fifths of a step on a CPU, for a handful of tokens.
    """
    scale = q.shape[-1] ** -0.5
    if q.shape[2] > k.shape[2]:
        # The many pixels last: a softmax over the last, short axis is slow.
        weights = ((k @ q.transpose(2, 3)) * scale).softmax(2).transpose(2, 3)
    else:
        weights = ((q @ k.transpose(2, 3)) * scale).softmax(3)
    attended: torch.Tensor = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return attended


def _norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """A ``LayerNorm`` or ``LayerNorm2d`` over the last axis, in the precision of ``x``."""
    return F.layer_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _upscaled(x: torch.Tensor, convolution: Any) -> torch.Tensor:
    """``ConvTranspose2d`` of kernel and stride 2 on pixels (N, P, C): 2x2 pixels for each, (N, P 4, C')."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return F.linear(x, weight, convolution.bias.repeat(4)).unflatten(2, (4, -1)).flatten(1, 2)
