"""The README.md that goes with a saved model, in the Hugging Face hub's format."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard import metadata_load

from cyqd.report.tables import markdown_table

LICENCE_FIELDS = ("license", "license_name", "license_link")
LICENCE_FILES = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)(\..+|-.+)?", re.IGNORECASE)
SPLITS = {"optimisation": "optimisation split, which drove the evolution", "test": "test split"}


def model_card(
    base: str,
    text: str,
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    experts: Sequence[str] = (),
    licensed: Path | None = None,
    relation: Literal["merge", "finetune"] = "merge",
    scored: str | None = None,
    split: Literal["optimisation", "test"] = "test",
    hub: Mapping[str, str] = MappingProxyType({}),
    made: str = "",
) -> str:
    """Write a model card.

    The front matter names base and experts only where the hub has them, since it refuses anything else, and repeats
    the licence that the base's folder states.

    Args:
        base: hub name, folder or file of the base model.
        text: how the model came about, in Markdown.
        rows: the results table, if there is one.
        experts: hub names or folders of what was merged.
        licensed: the base's folder or file, where ``base`` is only its name.
        relation: what the model is to ``base``.
        scored: which row is this model's own; its scores are then in the front matter too.
        split: what the rows were scored on.
        hub: ``library`` and ``pipeline``, what loads the model and what it does, by the hub's names, and ``code``,
            Python lines that load it from the current folder; any of them may be left out.
        made: the commands that made it.
    """
    own = next((row for row in rows if row["model"] == scored), None)
    models = dict.fromkeys(name for name in map(hub_name, (base, *experts)) if name)
    front = ModelCardData(
        base_model=(list(models) if len(models) > 1 else next(iter(models), None)),
        base_model_relation=relation if models else None,
        library_name=hub.get("library"),
        pipeline_tag=hub.get("pipeline"),
        tags=["merge", "cyqd"] if relation == "merge" else ["cyqd"],
        model_name=scored,
        eval_results=_eval_results(own, split, hub.get("pipeline", "other")) if own else None,
        **licence(licensed or Path(base)),
    )
    parts = [f"---\n{front.to_yaml()}\n---", text]
    if rows:
        parts.append(f"## Results on the {SPLITS[split]} (95 % intervals)\n\n{markdown_table(rows)}")
    if "code" in hub:
        parts.append(f"## How to load it\n\n```python\n{hub['code']}\n```")
    if made:
        parts.append(f"## How it was made\n\n```sh\n{made}\n```")
    return "\n\n".join(parts) + "\n"


def _eval_results(row: Mapping[str, Any], split: str, pipeline: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=pipeline,
            dataset_type=task,
            dataset_name=f"{task} ({split} split)",
            dataset_split=split,
            metric_type="score",
            metric_value=cell["mean"],
        )
        for task, cell in row["tasks"].items()
    ]


def hub_name(model: str | Path) -> str | None:
    """Return a model's name on the hub: a name itself, or whose a folder of the hub's cache is; else None."""
    if cached := re.search(r"(?:^|/)models--([\w.-]+)--([\w.-]+)/snapshots/", Path(model).as_posix()):
        return "/".join(cached.groups())
    is_name = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(model)) and not Path(model).exists()
    return str(model) if is_name else None


def public_name(model: str | Path) -> str:
    """Return what a model is called where others read it: its name on the hub, else its folder's or file's."""
    return hub_name(model) or Path(model).resolve().name


def licence(model: Path) -> dict[str, Any]:
    """Return the licence that a model states, as fields of a card: those of its own card, else its file.

    A damaged card is a warning: a model that took days to make is not lost for it.

    Args:
        model: its folder, or its file.
    """
    readme, stated = _folder(model) / "README.md", {}
    try:
        stated = metadata_load(readme) or {} if readme.is_file() else {}
    except (yaml.YAMLError, ValueError) as error:
        warnings.warn(
            f"{readme}: the front matter is damaged, and so no licence is repeated: {error}", stacklevel=2
        )
    if "license" in stated:
        return {key: stated[key] for key in LICENCE_FIELDS if key in stated}
    files = [file for file in licence_files(model) if file.name.upper().startswith("LICEN")]
    if not files:
        return {}
    first = next(
        (
            line.strip()
            for line in files[0].read_text(encoding="utf-8", errors="replace").splitlines()
            if line.strip()
        ),
        "",
    )
    name = re.sub(r"[^a-z0-9.]+", "-", first.lower()).strip("-")[:60] or "unnamed"
    return {"license": "other", "license_name": name, "license_link": files[0].name}


def licence_files(model: Path) -> list[Path]:
    """Return the files in or beside a model that must go with every copy of it: licence, notice, use policy."""
    files = (path for path in _folder(model).glob("*") if path.is_file())
    return sorted(path for path in files if LICENCE_FILES.fullmatch(path.name))


def _folder(model: Path) -> Path:
    return model.parent if model.is_file() else model
