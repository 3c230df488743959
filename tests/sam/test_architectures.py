import pytest
import torch
from segment_anything import sam_model_registry

from cyqd.sam.architecture import ARCHITECTURES, build, shapes


@pytest.mark.parametrize(("name", "millions"), [("vit_h", 641), ("vit_l", 312), ("vit_b", 94), ("tiny", 0.28)])
def test_sizes(name: str, millions: float) -> None:
    parameters = sum(torch.Size(shape).numel() for shape in shapes(name).values())
    assert parameters == pytest.approx(millions * 1e6, rel=0.005)


def test_metas_architectures_are_built_by_metas_own_builders() -> None:
    names = ["vit_h", "vit_l", "vit_b"]
    assert [ARCHITECTURES[name] for name in names] == [sam_model_registry[name] for name in names]


def test_tiny_is_random_and_ready_to_evaluate() -> None:
    torch.manual_seed(0)
    first, second = build("tiny"), build("tiny")
    assert not first.training
    assert not torch.equal(
        first.image_encoder.patch_embed.proj.weight, second.image_encoder.patch_embed.proj.weight
    )
    assert {n: tuple(t.shape) for n, t in first.state_dict().items()} == shapes("tiny")


def test_an_unknown_architecture() -> None:
    with pytest.raises(ValueError, match="expected one of vit_h, vit_l, vit_b, tiny, got 'huge'"):
        build("huge")
