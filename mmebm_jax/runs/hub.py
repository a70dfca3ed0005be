"""Exports on the Hugging Face Hub: `hf://user/name`, or `hf://user/name@revision`."""

import logging

from etils import epath

from mmebm_jax.runs.exports import FILES
from mmebm_jax.storage import places
from mmebm_jax.storage.validation import brief, plain

PREFIX = places.HUB
LOGGER = logging.getLogger("mmebm_jax")


def folder_of(path: epath.PathLike) -> epath.Path:
    """The folder of a path; an export on the hub is fetched first.

    Args:
      path: a folder, local or remote, or `hf://user/name@revision`.

    Raises:
      TypeError, ValueError, ConnectionError: see `places.place` and `fetch`.
    """
    return fetch(str(path)) if str(path).startswith(PREFIX) else places.place(path)


def fetch(address: str) -> epath.Path:
    """The folder of an export, fetched unless this exact revision is in the local cache.

    Args:
      address: `hf://user/name@revision`, where the revision is a commit, a tag or a branch. Without
        one the newest commit is fetched, and its permanent address is logged.

    Raises:
      ValueError: the extra is not installed, or the address is invalid.
      ConnectionError: the hub cannot be reached, or holds no such repository or revision.
    """
    name, _, revision = address.removeprefix(PREFIX).partition("@")
    try:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise ValueError(
            f"{plain(address)} needs huggingface_hub: pip install 'mmebm_jax[hub]'."
        ) from error
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"{plain(address)} is no address: give hf://user/name@revision.")
    try:
        folder = epath.Path(
            huggingface_hub.snapshot_download(
                name, revision=revision or None, allow_patterns=list(FILES)
            )
        )
    except HFValidationError as error:
        raise ValueError(
            f"{plain(address)} is no address: give hf://user/name@revision."
        ) from error
    except Exception as error:  # huggingface_hub and its HTTP client raise many kinds.
        reason = brief(str(error) or type(error).__name__)
        raise ConnectionError(
            f"{plain(address)} cannot be fetched ({reason}): check the network and the address."
        ) from error
    if revision != folder.name:  # The folder is named after the commit.
        LOGGER.info("%s is at %s%s@%s now.", address, PREFIX, name, folder.name)
    return folder
