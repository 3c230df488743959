"""Fine-tune one expert."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint

from cyqd.commands._common import Parser, model_parser, save_config, task_names
from cyqd.training.fit import fit
from cyqd.training.tracking import Wandb, check_wandb, wandb_logger


def parser() -> Parser:
    """Return the arguments of ``fit``."""
    parser = model_parser("Fine-tune one expert.")
    parser.add_class_arguments(L.Trainer, "trainer")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the expert to")
    parser.add_argument(
        "--ckpt_path",
        type=str,
        help="Lightning checkpoint to continue from, or 'last': the newest that a ModelCheckpoint with `save_last` "
        "keeps in `out`/checkpoints, if any",
    )
    parser.add_class_arguments(Wandb, "wandb")
    parser.link_arguments("out", "trainer.default_root_dir")  # logs and checkpoints lie beside the expert
    parser.set_defaults({"trainer.enable_model_summary": False})
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``fit``."""
    arguments = parser.instantiate(config)
    check_wandb(arguments.wandb)
    out: Path = arguments.out
    text = parser.dump(config, skip_validation=True)
    save_config(out, text)
    record = {"base": str(arguments.model.base), "seed": arguments.seed, "tasks": task_names(arguments.data)}

    def work() -> None:
        tracker = wandb_logger(
            arguments.wandb,
            out,
            name=out.name,
            job_type="fit",
            config=yaml.safe_load(text),
            resume=continues(arguments.trainer, out, arguments.ckpt_path),
            others=arguments.trainer.loggers,
        )
        with tracker or nullcontext():
            if tracker is not None:
                arguments.trainer.loggers = [tracker, *arguments.trainer.loggers]
            fit(
                arguments.model,
                arguments.data,
                arguments.trainer,
                out=out,
                ckpt_path=arguments.ckpt_path,
                record=record,
            )

    return work


def continues(trainer: L.Trainer, out: Path, ckpt_path: str | None) -> bool:
    """Tell whether there is a checkpoint to continue from."""
    if ckpt_path != "last":
        return ckpt_path is not None
    kept = (each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint))
    folders = [Path(each.dirpath or out / "checkpoints") for each in kept]
    return any(path for folder in folders for path in folder.glob("last*.ckpt"))
