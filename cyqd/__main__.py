"""The command line: ``python -m cyqd {fit,evolve,test,...}``."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

import cyqd
from cyqd.commands import available
from cyqd.commands._common import Parser
from cyqd.training.run import SetupError

QUIET = (
    ".*configure_optimizers. returned .None.*",
    ".*overridden .transfer_batch_to_device.*",
    ".*does not have many workers.*",
    ".*has zero length.*",
    ".*across ranks is zero.*",
    ".*LeafSpec.*",
)
"""Warnings that are true of every run here and ask nothing of the user."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; bad input ends it with one message and exit code 2, before any work."""
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(prog="python -m cyqd", description=cyqd.__doc__, version=cyqd.__version__)
    commands = parser.add_subcommands(dest="command")
    asked = next((word for word in argv if not word.startswith("-")), None)
    for command, (module, text) in available().items():
        if command == asked:  # only the command that is asked for is imported
            implementation = importlib.import_module(module)
            chosen = implementation.parser()
        commands.add_subcommand(command, chosen if command == asked else Parser(), help=text)
    config = parser.parse_args(argv)
    config = config[config.command]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    if "seed" in config:
        L.seed_everything(config.seed, verbose=False)
    if config.get("threads"):
        torch.set_num_threads(config.threads)
        os.environ["OMP_NUM_THREADS"] = str(config.threads)  # else Lightning chooses for several processes
    work = None
    try:
        work = implementation.prepare(config, chosen)
        work()
    except (ValueError, OSError, ImportError, MisconfigurationException) as error:
        if work is not None:
            raise
        chosen.error(str(error))
    except SetupError as error:
        if os.environ.get("CYQD_DEBUG"):
            raise
        chosen.error(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
