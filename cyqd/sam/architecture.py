"""The sizes of Segment Anything models, and how to build one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from segment_anything.build_sam import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn


def build_tiny() -> Sam:
    """Return a model of 0.28 M parameters for images of 64 pixels, for demos and tests on a CPU."""
    image_size, patch_size, width = 64, 8, 32
    grid = image_size // patch_size
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=64,
            depth=4,
            num_heads=4,
            out_chans=width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer=TwoWayTransformer(depth=2, embedding_dim=width, num_heads=4, mlp_dim=128),
            transformer_dim=width,
            iou_head_hidden_dim=width,
        ),
    )
    return sam.eval()


ARCHITECTURES: dict[str, Callable[[], Sam]] = {
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "tiny": build_tiny,
}
"""What builds each architecture; the first three are segment_anything's own."""


def build(architecture: str) -> Sam:
    """Return a model with random weights, in float32 and in evaluation mode.

    Raises:
        ValueError: if there is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture: expected one of {', '.join(ARCHITECTURES)}, got '{architecture}'")
    return ARCHITECTURES[architecture]()


@cache
def shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of an architecture's state dict, by name; nothing is allocated.

    Raises:
        ValueError: if there is no such architecture.
    """
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(architecture).state_dict().items()}
