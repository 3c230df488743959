"""What a segmentation expert is trained on: losses of logits against masks, padding left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, mask, inside) → scalar."""

WINDOW = 31
"""Side of the structure loss's neighbourhood, in pixels, at the resolution it was published for and above."""

PUBLISHED_SIZE = 352
"""Side of F3Net's and PraNet's input, in pixels."""


def window(size: int) -> int:
    """Return the side of the structure loss's neighbourhood for an input whose longest side is ``size`` pixels.

    It is 31 from 352 pixels on (Conv-LoRA keeps 31 at 1024), and below that the odd number nearest to the same
    share of the input, at least 3: 5 at 64 pixels, where 31 would cover half the image.
    """
    return min(WINDOW, max(3, 2 * round((WINDOW * size / PUBLISHED_SIZE - 1) / 2) + 1))


def structure_loss(logits: Tensor, mask: Tensor, inside: Tensor) -> Tensor:
    """Return weighted binary cross-entropy plus weighted IoU loss, which stress pixels near the object's edge.

    A pixel weighs 1 + 5·|mean of the mask around it − its own mask|, with the mean over :func:`window` pixels a
    side, those outside the image counted as background (Wei et al., "F³Net", AAAI 2020; Fan et al., "PraNet",
    MICCAI 2020). The cross-entropy is weighted pixel by pixel as the papers write it; in their published code a
    misnamed argument averages it before the weights apply. The IoU term is 1 − (I + 1)/(U + 1) with weighted sums.
    An image's loss is the same with and without padding at the right and the bottom.

    Args:
        logits: [B, 1, H, W].
        mask: 0 or 1, of the same shape; 0 in the padding.
        inside: 1 in the image, 0 in the padding, of the same shape.

    Returns:
        The mean over the images, float32.
    """
    logits, mask, inside = logits.float(), mask.float(), inside.float()
    side = window(max(logits.shape[-2:]))
    around = F.avg_pool2d(mask, side, stride=1, padding=side // 2)
    weight = (1 + 5 * (around - mask).abs()) * inside
    entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    probability = logits.sigmoid()
    total, entropy, intersection, both = (
        (weight * term).sum(dim=(1, 2, 3)) for term in (inside, entropy, probability * mask, probability + mask)
    )
    return (entropy / total + 1 - (intersection + 1) / (both - intersection + 1)).mean()


def dice_focal_loss(logits: Tensor, mask: Tensor, inside: Tensor) -> Tensor:
    """Return 20 × focal + 1 × dice loss, the ratio SAM itself was trained with.

    The ratio is from Kirillov et al., "Segment Anything", ICCV 2023, appendix A; the focal loss, averaged over the
    image's pixels, has α = 0.25 and γ = 2 (Lin et al., ICCV 2017); the dice loss is 1 − (2I + 1)/(P + M + 1) of
    summed products, probabilities and mask.

    Args:
        logits: [B, 1, H, W].
        mask: 0 or 1, of the same shape; 0 in the padding.
        inside: 1 in the image, 0 in the padding, of the same shape.

    Returns:
        The mean over the images, float32.
    """
    logits, mask, inside = logits.float(), mask.float(), inside.float()
    focal = sigmoid_focal_loss(logits, mask, alpha=0.25, gamma=2)
    probability = logits.sigmoid()
    pixels, focal, intersection, both = (
        (inside * term).sum(dim=(1, 2, 3))
        for term in (torch.ones_like(mask), focal, probability * mask, probability + mask)
    )
    return (20 * focal / pixels + 1 - (2 * intersection + 1) / (both + 1)).mean()


LOSSES: Mapping[str, Loss] = {"structure": structure_loss, "dice_focal": dice_focal_loss}
"""The losses by the names that configs use."""
