"""List public data sets, or download those that are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace

from cyqd.commands._common import Parser
from cyqd.datasets import run
from cyqd.training.run import SetupError


def parser() -> Parser:
    """Return the arguments of ``data``."""
    parser = Parser(description="List public data sets, or download those that are named (docs/downloads.md).")
    parser.add_argument("names", type=str, nargs="*", help="data sets to download; none lists all")
    parser.add_argument("--out", type=Path, help="folder to write to; the manifest's own by default")
    parser.add_argument("--manifest", type=Path, help="JSON file in place of the manifests that come with cyqd")
    parser.add_argument("--dry_run", action="store_true", help="say what would be downloaded, and stop")
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``data``."""

    def work() -> None:
        try:
            run(config.names or (), out=config.out, manifest=config.manifest, dry_run=config.dry_run)
        except (ValueError, OSError, ImportError) as error:  # no network, say: no traceback helps
            raise SetupError(str(error)) from error

    return work
