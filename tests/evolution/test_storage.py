"""Files are replaced whole or not at all."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cyqd.evolution.storage import atomic_path, load_json, save_json, save_tensors


def test_a_block_that_ends_well_replaces_the_file(tmp_path):
    target = tmp_path / "new folder" / "state.json"
    for text in ("first", "second"):
        with atomic_path(target) as temporary:
            temporary.write_text(text)
            assert not target.exists() or target.read_text() == "first"
        assert target.read_text() == text
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "state.json"
    target.write_text("old")

    def interrupted_write() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted_write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_raises_before_it_writes_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="before"), atomic_path(tmp_path / "state.json"):
        raise RuntimeError("before")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [math.nan, {"scores": [math.inf]}, {"a": object()}])
def test_what_json_cannot_hold_raises_and_leaves_the_old_file(tmp_path, content):
    target = tmp_path / "state.json"
    save_json(target, {"ok": True})
    with pytest.raises((TypeError, ValueError)):
        save_json(target, content)
    assert load_json(target) == {"ok": True}
    assert list(tmp_path.iterdir()) == [target]


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_json_keeps_every_bit(tmp_path_factory, value, text):
    path = tmp_path_factory.getbasetemp() / "bits.json"
    save_json(path, [value, text])
    loaded, words = load_json(path)
    assert (math.copysign(1, loaded), loaded, words) == (math.copysign(1, value), value, text)


def test_a_file_that_is_not_json_is_named(tmp_path: Path):
    path = tmp_path / "state.json"
    path.write_text('{"half": ')
    with pytest.raises(ValueError, match=r"state\.json is not valid JSON"):
        load_json(path)


def test_tensors_survive_exactly_whatever_their_strides(tmp_path):
    tensors = {"transposed": torch.randn(3, 5).T, "half": torch.randn(4).half(), "none": torch.zeros(0)}
    save_tensors(tmp_path / "t.safetensors", tensors, {"kind": "test"})
    loaded = load_file(tmp_path / "t.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
