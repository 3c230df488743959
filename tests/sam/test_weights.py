import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry

from cyqd.sam import weights
from cyqd.sam.architecture import build


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_folder_and_its_pth_hold_the_same_model(tiny: Path) -> None:
    assert sorted(file.name for file in tiny.iterdir()) == [
        "README.md",
        "config.json",
        "model.pth",
        "model.safetensors",
    ]
    live = weights.load(tiny).state_dict()
    assert same(weights.read(tiny), live)
    assert same(weights.read(tiny / "model.pth"), live)
    assert same(weights.load(tiny / "model.pth").state_dict(), live)
    assert [weights.architecture_of(tiny), weights.architecture_of(tiny / "model.pth")] == ["tiny", "tiny"]


def test_a_live_model_may_be_written_to_and_the_files_stay(tiny: Path) -> None:
    sam, stored = weights.load(tiny), weights.read(tiny)
    name, parameter = next(iter(sam.named_parameters()))
    before = stored[name].clone()
    with torch.no_grad():
        parameter.fill_(7)
    assert torch.equal(stored[name], before)
    assert torch.equal(weights.read(tiny)[name], before)


def test_saving_again_replaces_the_files_and_keeps_others(copy: Path) -> None:
    (copy / "cyqd.json").write_text("{}")
    (copy / ".saving-killed").mkdir()
    read = weights.read(copy)
    weights.save(copy, {name: tensor + 1 for name, tensor in read.items()}, "tiny", "# Another\n")
    assert all(torch.equal(weights.read(copy)[name], tensor + 1) for name, tensor in read.items())
    assert (copy / "README.md").read_text() == "# Another\n"
    assert (copy / "cyqd.json").exists()
    assert not list(copy.glob(".saving-*"))


def test_saving_what_was_read_does_not_blow_up_the_pth(tiny: Path, tmp_path: Path) -> None:
    weights.save(tmp_path, weights.read(tiny), "tiny", "")
    assert (tmp_path / "model.pth").stat().st_size < 1.5 * (tmp_path / "model.safetensors").stat().st_size


def test_the_registry_loads_what_is_saved(tmp_path: Path) -> None:
    state = build("vit_b").state_dict()
    weights.save(tmp_path, state, "vit_b", "")
    assert same(sam_model_registry["vit_b"](checkpoint=str(tmp_path / "model.pth")).state_dict(), state)
    assert weights.architecture_of(tmp_path / "model.pth") == "vit_b"


@pytest.mark.parametrize("file", ["model.safetensors", "model.pth"])
def test_a_damaged_file(copy: Path, file: str) -> None:
    path = copy / file
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        weights.read(copy if file.endswith("tensors") else path)


def test_what_torch_cannot_load_is_named(tiny: Path, tmp_path: Path) -> None:
    torch.save({"model": dict(weights.read(tiny)), "path": tmp_path}, tmp_path / "run.pth")
    with pytest.raises(ValueError, match=r"run\.pth is damaged, or holds more than tensors; .*state_dict"):
        weights.read(tmp_path / "run.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as file:
        file.writestr("sam.txt", "no checkpoint")
    with pytest.raises(ValueError, match=r"other\.pth is damaged, or holds more than tensors"):
        weights.read(tmp_path / "other.pth")


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in this folder"):
        weights.read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model at .*sam\.pth"):
        weights.read(tmp_path / "sam.pth")


def test_a_training_checkpoint_is_no_state_dict(tiny: Path, tmp_path: Path) -> None:
    torch.save({"model": dict(weights.read(tiny)), "epoch": 3}, tmp_path / "last.pth")
    with pytest.raises(ValueError, match=r"names → tensors, got a dict of \['model', 'epoch'\]"):
        weights.read(tmp_path / "last.pth")


def test_tensors_of_another_model(tiny: Path, tmp_path: Path) -> None:
    state = weights.read(tiny)
    first, second, *_ = state
    changed = {name: tensor for name, tensor in state.items() if name != first} | {"head": torch.zeros(1)}
    changed[second] = torch.zeros(2)
    with pytest.raises(ValueError, match=rf"{first} is missing; head is unknown; {second} is \[2\], not \["):
        weights.save(tmp_path, changed, "tiny", "")
    assert not list(tmp_path.iterdir())
    torch.save(changed, tmp_path / "changed.pth")
    assert weights.architecture_of(tmp_path / "changed.pth") is None
    with pytest.raises(ValueError, match="fits none of vit_h"):
        weights.load(tmp_path / "changed.pth")
    with pytest.raises(ValueError, match="does not hold the tensors of vit_b"):
        weights.load(tiny, "vit_b")


def test_a_config_that_names_no_architecture(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"architecture": "vit_g"}))
    with pytest.raises(ValueError, match=r"config\.json: architecture: expected one of vit_h.*, got 'vit_g'"):
        weights.architecture_of(copy)
    (copy / "config.json").write_text('["vit_h"]')
    with pytest.raises(ValueError, match=r"config\.json: expected an object .*got \['vit_h'\]"):
        weights.architecture_of(copy)


def test_a_live_model_is_whole(tiny: Path) -> None:
    sam = weights.load(tiny, dtype=torch.bfloat16)
    assert not sam.training
    assert {p.dtype for p in sam.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad for p in sam.parameters())
    assert {b.dtype for b in sam.buffers()} == {torch.float32}
    assert {t.device.type for t in [*sam.parameters(), *sam.buffers()]} == {"cpu"}
    assert sam.pixel_mean.flatten().tolist() == build("tiny").pixel_mean.flatten().tolist()
