"""Segment Anything's forward pass over a batch of images, with gradients.

``Sam.forward`` keeps no gradients and decodes image by image; this gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from segment_anything.modeling import ImageEncoderViT, PromptEncoder, Sam
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def segment(
    sam: Sam, images: Tensor, sizes: Tensor, prompts: Mapping[str, Tensor], *, checkpointing: bool = False
) -> tuple[Tensor, Tensor]:
    """Predict one mask per image (mask token 0, as with ``multimask_output=False``).

    Args:
        sam: the model.
        images: uint8 [B, 3, S, S], RGB, padded at the right and the bottom; S is the model's input size.
        sizes: int64 [B, 2], height and width of each image without its padding.
        prompts: one prompt per image, in pixels of the input: ``boxes`` float32 [B, 1, 4] as XYXY, ``points``
            float32 [B, N, 2] as XY with ``labels`` int64 [B, N] (1 in the object, 0 outside), both, or neither.
            Other keys are not read, so that a batch can be passed.
        checkpointing: recompute the activations of the encoder's blocks in the backward pass to save memory.

    Returns:
        Logits float32 [B, 1, L, L], with L = 4 · S / patch size, and the predicted IoU float32 [B, 1].
    """
    pixels = normalise(sam, images, sizes).to(next(sam.image_encoder.parameters()).dtype)
    embeddings = encode(sam.image_encoder, pixels, checkpointing=checkpointing)
    # Positions are encoded by sines of large numbers, and a 16-bit autocast would blur them by pixels.
    with torch.autocast(images.device.type, enabled=False):
        sparse, dense = embed_prompts(sam.prompt_encoder, prompts)
        positions = sam.prompt_encoder.get_dense_pe()
    # The decoder adds image embedding and dense prompt, and repeats the former for every prompt of one image. The
    # dense prompt of "no mask" is what is shared here, so the two change places.
    logits, quality = sam.mask_decoder(
        image_embeddings=dense[:1].to(embeddings.dtype),
        image_pe=positions.to(embeddings.dtype),
        sparse_prompt_embeddings=sparse.expand(len(images), -1, -1).to(embeddings.dtype),
        dense_prompt_embeddings=embeddings,
        multimask_output=False,
    )
    return logits.float(), quality.float()


def normalise(sam: Sam, images: Tensor, sizes: Tensor) -> Tensor:
    """Normalise pixels as ``Sam.preprocess`` does, with zeros in the padding.

    Args:
        sam: the model, which holds mean and deviation of the pixels.
        images: uint8 [B, 3, S, S].
        sizes: int64 [B, 2], height and width without padding.

    Returns:
        float32 [B, 3, S, S].

    Raises:
        ValueError: if the images are not of the model's input size.
    """
    side = sam.image_encoder.img_size
    if images.shape[1:] != (3, side, side):
        raise ValueError(f"this model takes images [B, 3, {side}, {side}], got {list(images.shape)}")
    pixels: Tensor = (images - sam.pixel_mean) / sam.pixel_std
    return pixels * without_padding(sizes, side)


def without_padding(sizes: Tensor, side: int) -> Tensor:
    """Return where the images are in their inputs, bool [B, 1, side, side], for heights and widths [B, 2]."""
    place = torch.arange(side, device=sizes.device)
    rows, columns = (place < sizes[:, axis, None] for axis in (0, 1))
    return rows[:, None, :, None] & columns[:, None, None, :]


def encode(encoder: ImageEncoderViT, pixels: Tensor, *, checkpointing: bool = False) -> Tensor:
    """Return the image embeddings [B, C, h, w] of normalised pixels [B, 3, S, S]."""
    hidden = encoder.patch_embed(pixels)
    if encoder.pos_embed is not None:
        hidden = hidden + encoder.pos_embed
    for block in encoder.blocks:
        hidden = checkpoint(block, hidden, use_reentrant=False) if checkpointing else block(hidden)
    embeddings: Tensor = encoder.neck(hidden.permute(0, 3, 1, 2))
    return embeddings


def embed_prompts(encoder: PromptEncoder, prompts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return sparse tokens [B, n, C] (one empty row where there is no prompt) and the dense "no mask" prompt."""
    points = (prompts["points"], prompts["labels"]) if "points" in prompts else None
    embedded: tuple[Tensor, Tensor] = encoder(points=points, boxes=prompts.get("boxes"), masks=None)
    return embedded


def original_size(logits: Tensor, size: tuple[int, int] | Tensor, original: tuple[int, int]) -> Tensor:
    """Bring an image's logits to its original size, as ``Sam.postprocess_masks`` does.

    Args:
        logits: float32 [1, L, L].
        size: height and width of the resized image without padding; the longer one is the model's input size.
        original: the image's own height and width, H and W.

    Returns:
        float32 [H, W].
    """
    height, width = (int(side) for side in size)
    side = max(height, width)
    full = F.interpolate(logits[None], (side, side), mode="bilinear", align_corners=False)
    resized = F.interpolate(full[..., :height, :width], original, mode="bilinear", align_corners=False)
    return resized[0, 0]
