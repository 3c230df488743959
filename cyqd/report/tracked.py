"""What is known of a run's W&B run without wandb, whose import takes a second: its mode, and its ``wandb.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

from cyqd.evolution.storage import load_json

Mode = Literal["online", "offline", "disabled"]
KNOWN = "wandb.json"
"""In a run's folder: the W&B run's id, project and entity, its url once it was online, and, once all of it has been
logged, how many models were ``finished``."""


def chosen_mode(default: Mode) -> Mode:
    """Return the mode that WANDB_MODE asks for, or the default.

    Raises:
        ValueError: if WANDB_MODE says something else.
    """
    modes: dict[str, Mode] = {mode: mode for mode in get_args(Mode)}
    modes["dryrun"] = "offline"  # its older name
    said = os.environ.get("WANDB_MODE") or default
    if said not in modes:
        raise ValueError(f"WANDB_MODE: expected one of {', '.join(get_args(Mode))}, got {said}")
    return modes[said]


def read_tracked(folder: Path) -> dict[str, Any]:
    """Return what ``wandb.json`` says of a run.

    Raises:
        FileNotFoundError: if the run was not tracked.
        ValueError: if the file is damaged, naming it.
    """
    found = load_json(folder / KNOWN)
    if not isinstance(found, dict) or not {"id", "project", "entity", "url"} <= found.keys():
        raise ValueError(f"{folder / KNOWN} is damaged; delete it to start another W&B run")
    return found
