from pathlib import Path

import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from cyqd.sam import weights
from cyqd.sam.segmenter import original_size, segment

SIZES = [(64, 64), (64, 40), (17, 64)]
ORIGINALS = [(80, 80), (64, 40), (33, 125)]
PROMPTS = {
    "none": {},
    "box": {"boxes": torch.tensor([[[3.0, 5, 60, 50]], [[0, 0, 39, 63]], [[10.5, 2, 30, 16]]])},
    "points": {
        "points": torch.tensor([[[20.0, 30], [50, 9]], [[0, 0], [39, 63]], [[63, 16], [5.5, 3]]]),
        "labels": torch.tensor([[1, 0], [1, 1], [0, 1]]),
    },
}
PROMPTS["box and points"] = PROMPTS["box"] | PROMPTS["points"]


@pytest.fixture
def sam(tiny: Path) -> Sam:
    return weights.load(tiny)


@pytest.fixture
def images() -> Tensor:
    """Noise in the images and in their padding, which must not matter."""
    return torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def by_sam_itself(sam: Sam, images: Tensor, prompts: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Run Sam.forward on images without padding, each with its own prompts."""
    names = {"boxes": "boxes", "points": "point_coords", "labels": "point_labels"}
    return [
        sam(
            [
                {"image": image[:, :height, :width], "original_size": original}
                | {
                    names[name]: prompt[i : i + 1].squeeze(1 if name == "boxes" else ())
                    for name, prompt in prompts.items()
                }
            ],
            multimask_output=False,
        )[0]
        for i, (image, (height, width), original) in enumerate(zip(images, SIZES, ORIGINALS, strict=True))
    ]


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_a_batch_equals_sam_forward_image_by_image(sam: Sam, images: Tensor, prompts: dict[str, Tensor]) -> None:
    logits, quality = segment(sam, images, torch.tensor(SIZES), prompts)
    for i, single in enumerate(by_sam_itself(sam, images, prompts)):
        torch.testing.assert_close(logits[i], single["low_res_logits"][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(quality[i], single["iou_predictions"][0], rtol=1e-4, atol=1e-5)
        mask = original_size(logits[i].detach(), SIZES[i], ORIGINALS[i])
        expected = sam.postprocess_masks(single["low_res_logits"], SIZES[i], ORIGINALS[i])[0, 0]
        torch.testing.assert_close(mask, expected, rtol=1e-4, atol=1e-5)
        assert mask.shape == ORIGINALS[i]
        assert ((mask > 0) == single["masks"][0, 0]).float().mean() > 0.999


def test_prompts_and_images_matter(sam: Sam, images: Tensor) -> None:
    results = [segment(sam, images, torch.tensor(SIZES), prompts)[0] for prompts in PROMPTS.values()]
    results += [segment(sam, images.flip(0), torch.tensor(SIZES), {})[0]]
    for i, first in enumerate(results):
        assert all(not torch.allclose(first, second, rtol=1e-3) for second in results[:i])


def gradients(sam: Sam, images: Tensor, *, checkpointing: bool) -> tuple[Tensor, dict[str, Tensor]]:
    sam.zero_grad()
    logits, quality = segment(sam, images, torch.tensor(SIZES), PROMPTS["box"], checkpointing=checkpointing)
    loss = logits.square().mean() + quality.sum()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in sam.named_parameters() if p.grad is not None}


def test_checkpointing_recomputes_and_changes_neither_loss_nor_gradients(sam: Sam, images: Tensor) -> None:
    runs: list[object] = []
    sam.image_encoder.blocks[0].register_forward_pre_hook(lambda *_: runs.append(None))
    loss, plain = gradients(sam, images, checkpointing=False)
    assert len(runs) == 1
    again, recomputed = gradients(sam, images, checkpointing=True)
    assert len(runs) == 3
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(recomputed, plain)
    encoder = [name for name, _ in sam.named_parameters() if name.startswith("image_encoder.")]
    assert all(plain[name].abs().sum() > 0 for name in encoder)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_bfloat16_autocast(sam: Sam, images: Tensor, prompts: dict[str, Tensor]) -> None:
    exact, _ = segment(sam, images, torch.tensor(SIZES), prompts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, quality = segment(sam, images, torch.tensor(SIZES), prompts, checkpointing=True)
    assert logits.dtype == quality.dtype == torch.float32
    assert (logits - exact).norm() < 0.03 * exact.norm()
    logits.mean().backward()
    assert sam.image_encoder.patch_embed.proj.weight.grad.isfinite().all()


def test_bfloat16_weights(tiny: Path, sam: Sam, images: Tensor) -> None:
    exact, _ = segment(sam, images, torch.tensor(SIZES), PROMPTS["points"])
    half = weights.load(tiny, dtype=torch.bfloat16)
    logits, _ = segment(half, images, torch.tensor(SIZES), PROMPTS["points"])
    assert (logits - exact).norm() < 0.05 * exact.norm()


def test_images_of_another_size(sam: Sam) -> None:
    with pytest.raises(ValueError, match=r"takes images \[B, 3, 64, 64\], got \[1, 3, 32, 64\]"):
        segment(sam, torch.zeros(1, 3, 32, 64, dtype=torch.uint8), torch.tensor([[32, 64]]), {})
