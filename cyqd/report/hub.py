"""Pushing a model's folder to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # of whichever HTTP library it uses


def check_push(name: str) -> None:
    """Check that a model can be pushed, without changing anything.

    Args:
        name: the repository, as OWNER/NAME.

    Raises:
        ValueError: if the name is none, or its owner is neither the token's user nor an organisation of theirs.
        OSError: if the hub is switched off, out of reach, or there is no valid token.
    """
    owner, _, repository = name.partition("/")
    if not owner or not repository or "/" in repository:
        raise ValueError(f"push: expected OWNER/NAME, got {name!r}")
    if HF_HUB_OFFLINE:
        raise OSError("push: HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or leave --push out")
    if get_token() is None:
        raise OSError("push: there is no token of the Hugging Face hub; run `hf auth login`, or set HF_TOKEN")
    try:
        user = HfApi().whoami()
    except (HTTPError, OSError) as error:
        raise OSError(f"push: {ENDPOINT} cannot be used; leave --push out to export alone: {error}") from error
    owners = [user["name"], *(organisation["name"] for organisation in user.get("orgs", ()))]
    if owner not in owners:
        raise ValueError(f"push: the token is of {', '.join(owners)}, who cannot push to {owner}")


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Push a folder as one commit to a repository, which is created if there is none.

    Args:
        folder: the model's folder.
        name: the repository, as OWNER/NAME.
        private: whether a repository that is created is private.

    Returns:
        The repository's address.

    Raises:
        OSError: if the hub refuses it, or the network breaks; the commit is whole or absent.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export with cyqd")
    except (HTTPError, OSError, ValueError) as error:  # ValueError: the card's front matter is refused
        raise OSError(
            f"push: {name} has not been pushed; the model lies in {folder}, to be pushed with `hf upload {name} "
            f"{folder}`: {error}"
        ) from error
    return str(address)
