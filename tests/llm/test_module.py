import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from cyqd.llm import LLMData, LLMModule, LoRA
from cyqd.llm.chat import IGNORED
from cyqd.training.lora import merged
from cyqd.training.optimisation import warmup_cosine


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "train.jsonl"
    lines = [{"instruction": f"What is {i}?", "output": f"It is {i}." * (1 + i % 3)} for i in range(48)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


class Losses(L.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, out: Any, *_: Any) -> None:
        self.losses.append(float(out["loss"]))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(module: LLMModule, chats: Path, *, steps: int, resume: Path | None = None, **options: Any) -> Losses:
    losses = Losses()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[losses, *options.pop("callbacks", [])],
        **{"enable_checkpointing": False, **options},
    )
    trainer.fit(module, LLMData(train=[chats], batch_size=8), ckpt_path=resume)
    return losses


def llm(base: Path, **options: Any) -> LLMModule:
    return LLMModule(base, max_new_tokens=8, lr=5e-3, weight_decay=0.0, **options)


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.eval()(input_ids=ids).logits
    return result


IDS = torch.arange(5, 45)[None]


def test_the_loss_is_the_mean_over_learned_tokens(base: Path) -> None:
    module = llm(base)
    module.log = lambda *_, **__: None  # there is no Trainer to log to
    torch.manual_seed(0)
    ids = torch.randint(5, 250, (3, 20))
    labels = torch.where(torch.rand(ids.shape) < 0.4, ids, IGNORED)
    mask = torch.ones_like(ids)
    mask[0, 15:], labels[0, 15:] = 0, IGNORED
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    full = module.model(input_ids=ids, attention_mask=mask).logits
    expected = F.cross_entropy(full[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_thirty_steps_lower_the_loss_and_the_expert_is_a_plain_model(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    module = llm(base)
    seen = fit(module, chats, steps=30)
    assert sum(seen.losses[-5:]) < 0.6 * sum(seen.losses[:5])
    module.save_model(tmp_path / "expert", "# A card")
    assert (tmp_path / "expert" / "README.md").read_text() == "# A card"
    assert not list((tmp_path / "expert").glob(".saving*"))
    expert = AutoModelForCausalLM.from_pretrained(tmp_path / "expert")
    assert torch.equal(logits(expert, IDS), logits(module.model, IDS))
    assert not torch.equal(logits(expert, IDS), logits(llm(base).model, IDS))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "expert")
    assert tokenizer.chat_template == module.tokenizer.chat_template
    module.check_compatible(base, tmp_path / "expert")
    weights = module.read_weights(tmp_path / "expert")
    assert all(torch.equal(weights[name], p) for name, p in module.evolved_parameters().items())


def test_schedule() -> None:
    rates = [warmup_cosine(s, steps=100, warmup_ratio=0.1, min_lr_ratio=0.1) for s in range(101)]
    assert rates[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_trainer_steps_the_schedule(base: Path, chats: Path) -> None:
    rates = fit(llm(base), chats, steps=20).rates
    assert rates == pytest.approx(
        [5e-3 * warmup_cosine(s, steps=20, warmup_ratio=0.1, min_lr_ratio=0.1) for s in range(1, 21)]
    )


def test_a_schedule_without_an_end_is_refused(base: Path, chats: Path) -> None:
    with pytest.raises(ValueError, match=r"set trainer\.max_epochs or trainer\.max_steps"):
        fit(llm(base), chats, steps=-1, max_epochs=-1)


def test_resume_equals_an_uninterrupted_fit(base: Path, chats: Path, tmp_path: Path) -> None:
    whole = llm(base)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    seen = fit(whole, chats, steps=12, max_epochs=2, callbacks=[keep], enable_checkpointing=True)
    for step in (4, 6, 8):  # within, at the end of and after the first epoch of six steps
        resumed = llm(base)
        rest = fit(resumed, chats, steps=12, max_epochs=2, resume=tmp_path / f"step={step}.ckpt")
        assert rest.losses == seen.losses[step:]
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_gradient_checkpointing_gives_the_same_losses(base: Path, chats: Path) -> None:
    plain = fit(llm(base), chats, steps=3).losses
    module = llm(base, gradient_checkpointing=True)
    assert module.model.is_gradient_checkpointing
    assert fit(module, chats, steps=3).losses == pytest.approx(plain)


def test_lora_exports_a_plain_model_and_the_adapter(base: Path, chats: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    lora = LoRA(rank=4, alpha=8.0, targets=["q_proj", "v_proj", "down_proj"])
    module = llm(base, lora=lora, gradient_checkpointing=True)
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 3 * 2
    assert all(".lora_" in name for name in trained)
    losses = fit(module, chats, steps=8).losses
    assert losses[-1] < losses[0]
    module.save_model(tmp_path / "expert", "card")
    expert = AutoModelForCausalLM.from_pretrained(tmp_path / "expert")
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert expert.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(logits(expert, IDS), logits(module.model, IDS), atol=1e-4, rtol=1e-4)
    assert (logits(expert, IDS) - logits(plain, IDS)).abs().max() > 1e-2
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "expert" / "adapter")
    torch.testing.assert_close(logits(adapted, IDS), logits(module.model, IDS), atol=1e-4, rtol=1e-4)
    assert llm(base).read_weights(tmp_path / "expert").keys() == llm(base).evolved_parameters().keys()


def test_lora_merge_is_the_formula() -> None:
    torch.manual_seed(0)
    weight, up, down = torch.randn(6, 5), torch.randn(6, 2), torch.randn(2, 5)
    state = {
        "a.base_layer.weight": weight,
        "a.base_layer.bias": torch.ones(6),
        "a.lora_A.default.weight": down,
        "a.lora_B.default.weight": up,
        "b.weight": torch.zeros(3),
    }
    plain = merged(state, LoRA(rank=2, alpha=3.0))
    assert plain.keys() == {"a.weight", "a.bias", "b.weight"}
    expected = weight.double() + 1.5 * up.double() @ down.double()
    torch.testing.assert_close(plain["a.weight"], expected.float())


def test_lora_on_unknown_layers_is_refused(base: Path) -> None:
    with pytest.raises(ValueError, match="no linear layers called 'query'"):
        llm(base, lora=LoRA(targets=["query"]))


def test_saving_again_replaces_and_keeps_other_files(base: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    module = llm(base)
    module.save_model(tmp_path, "one")
    with torch.no_grad():
        module.model.lm_head.weight.mul_(2)
    module.save_model(tmp_path, "two")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "README.md").read_text() == "two"
    assert torch.equal(module.read_weights(tmp_path)["lm_head.weight"], module.model.lm_head.weight)
