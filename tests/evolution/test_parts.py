"""Parts of a model: layers and groups, told by the parameters' names."""

from __future__ import annotations

import pytest

from cyqd.evolution.parts import common_granularity, find_parts, parts_of

NAMES = [
    "embed.weight",
    "layers.0.up.weight",
    "layers.0.down.weight",
    "layers.10.up.weight",
    "layers.10.down.weight",
    "norm.weight",
]


@pytest.mark.parametrize(
    ("name", "layer", "group"),
    [
        ("model.layers.12.mlp.down_proj.weight", "model.layers.12", "mlp.down_proj"),
        ("model.layers.3.self_attn.q_proj.bias", "model.layers.3", "self_attn.q_proj.bias"),
        ("image_encoder.blocks.0.attn.rel_pos_h", "image_encoder.blocks.0", "attn.rel_pos_h"),
        ("encoder.2.layers.5.weight", "encoder.2", "layers.5"),
        ("0.weight", "0", "weight"),
        ("point_embeddings.3", "point_embeddings.3", "point_embeddings.3"),
        ("conv2d.weight", "conv2d.weight", "conv2d.weight"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight", "model.embed_tokens.weight"),
    ],
)
def test_names_fall_into_layers_and_groups(name, layer, group):
    assert parts_of(name) == (layer, group)


@pytest.mark.parametrize(
    ("granularity", "names", "indices"),
    [
        ("model", ["model"], [0, 0, 0, 0, 0, 0]),
        ("layer", ["embed.weight", "layers.0", "layers.10", "norm.weight"], [0, 1, 1, 2, 2, 3]),
        ("group", ["embed.weight", "up", "down", "norm.weight"], [0, 1, 2, 1, 2, 3]),
    ],
)
def test_parts_keep_the_order_of_the_parameters(granularity, names, indices):
    assert find_parts(NAMES, granularity) == (names, dict(zip(NAMES, indices, strict=True)))


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [("model", "model", "model"), ("model", "layer", "layer"), ("group", "model", "group"), ("layer",) * 3],
)
def test_every_granularity_refines_the_whole_model(first, second, common):
    assert common_granularity(first, second) == common


def test_layers_and_groups_do_not_combine():
    with pytest.raises(ValueError, match=r"granularity: expected both 'layer'.*'group'"):
        common_granularity("layer", "group")
