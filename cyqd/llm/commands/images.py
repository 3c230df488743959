"""Build the Docker images that containers start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace

from cyqd.commands._common import Parser
from cyqd.llm.environments import SandboxUnavailable
from cyqd.llm.images import ImageError, build, known
from cyqd.training.run import SetupError


def parser() -> Parser:
    """Return the arguments of ``images``."""
    parser = Parser(
        description="Build the Docker images that containers start from, out of the project's Dockerfiles."
    )
    parser.add_argument(
        "names", type=str, nargs="*", help=f"images to build; none builds all: {', '.join(known())}"
    )
    parser.add_argument("--base", type=str, help="image to build on, in place of the one that a Dockerfile names")
    parser.add_argument(
        "--rootfs", type=Path, help="tar file of a root file system to build on, where no registry can be reached"
    )
    parser.add_argument(
        "--network", type=str, help="network of the build steps, such as `host`; Docker's own by default"
    )
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``images``."""

    def work() -> None:
        try:
            built = build(config.names or (), base=config.base, rootfs=config.rootfs, network=config.network)
        except (ImageError, SandboxUnavailable, ValueError, OSError) as error:  # the daemon's own words say it all
            raise SetupError(str(error)) from error
        print(f"built: {', '.join(built)}")

    return work
