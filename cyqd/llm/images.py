"""Building the images that containers start from, without a registry where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from cyqd.llm.environments.containers import docker_client

FOLDER = Path(__file__).parent / "environments" / "images"
IMPORTED = "cyqd/base"
BUILD_SECONDS = 1800  # for the daemon's next word

_ADVICE = (
    "Where no registry can be reached, build on an image that is there (--base IMAGE, a Debian or an Ubuntu) or on "
    "a root file system (--rootfs FILE.tar). Packages come through the daemon's network, or --network host."
)


class ImageError(RuntimeError):
    """An image could not be built or imported."""


def known() -> dict[str, Path]:
    """Return the project's Dockerfiles by the image's name: their path, ``cyqd/NAME`` where they have no folder."""
    found = {}
    for path in sorted(FOLDER.rglob("*.Dockerfile")):
        name = path.relative_to(FOLDER).with_suffix("").as_posix()
        found[name if "/" in name else f"cyqd/{name}"] = path
    return found


def build(
    names: Sequence[str] = (),
    *,
    base: str | None = None,
    rootfs: Path | None = None,
    network: str | None = None,
    progress: Callable[[str], object] = print,
) -> list[str]:
    """Build images from the project's Dockerfiles.

    Args:
        names: out of :func:`known`; none means all.
        base: the image to build on, in place of the one that each Dockerfile names.
        rootfs: a tar file of a root file system, which is imported as the image ``base``, or :data:`IMPORTED`, and
            built on.
        network: the network of the build's steps, such as "host"; by default the daemon's own.
        progress: is given every line that the daemon says.

    Returns:
        The names of the images.

    Raises:
        ValueError: if a name is not known.
        FileNotFoundError: if there is no file ``rootfs``.
        DockerUnavailable: if no daemon answers.
        ImageError: if one could not be built or imported.
    """
    files = known()
    if unknown := [name for name in names if name not in files]:
        raise ValueError(f"no Dockerfile for image {unknown[0]!r}; there are {', '.join(files)}")
    if rootfs is not None and not rootfs.is_file():
        raise FileNotFoundError(
            f"no root file system at {rootfs}: expected a tar file of a folder made by debootstrap"
        )
    docker_client()
    client = docker.from_env(timeout=BUILD_SECONDS)
    try:
        if rootfs is not None:
            base = base or IMPORTED
            progress(f"importing {rootfs} as {base}")
            lines = client.api.import_image(src=str(rootfs), repository=base).splitlines()
            _follow(map(json.loads, lines), progress)
        for name in names or files:
            progress(f"building {name}")
            steps = client.api.build(
                path=str(FOLDER),
                dockerfile=files[name].relative_to(FOLDER).as_posix(),
                tag=name,
                buildargs={"BASE": base} if base else None,
                network_mode=network,
                rm=True,
                forcerm=True,
                decode=True,
            )
            _follow(steps, progress)
    except (DockerException, RequestException) as error:
        raise ImageError(f"Docker could not build: {error}. {_ADVICE}") from error
    finally:
        client.close()
    return list(names or files)


def _follow(steps: Iterable[Mapping[str, Any]], progress: Callable[[str], object]) -> None:
    """Pass on what the daemon says; raises ImageError where it says that it failed."""
    for step in steps:
        if "error" in step:
            raise ImageError(f"Docker could not build: {step['error'].strip()}. {_ADVICE}")
        for line in step.get("stream", step.get("status", "")).splitlines():
            if line.strip():
                progress(line)
