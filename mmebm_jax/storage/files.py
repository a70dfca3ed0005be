"""Atomic file writes, so that no reader ever sees half a file, and checks of files and folders."""

import json
import os
import tempfile
from typing import Any

from etils import epath

from mmebm_jax.storage.validation import brief


def write_whole(path: epath.Path, content: bytes | str) -> None:
    """Write a file atomically: an existing file stays until the new one is complete."""
    # The process id keeps processes that share a folder from writing to the same partial file.
    aside = path.parent / f"{path.name}.{os.getpid()}.part"
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def nearest_existing(path: epath.Path) -> epath.Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def check_folder(path: epath.Path, flag: str = "") -> None:
    """Check that a folder can be made and written to; nothing is left there.

    Args:
      path: the folder, which need not exist.
      flag: the flag that named it, such as "--workdir"; empty for one inside a named folder.

    Raises:
      ValueError: it cannot; the message names the path.
    """
    if "://" in str(path):  # Only a write shows whether an object store is writable.
        return
    there = nearest_existing(path)
    if not there.is_dir():
        mend = f"name a folder with {flag}" if flag else "move it away"
        raise ValueError(f"{there} is a file: {mend}.")
    if not _takes_files(there):
        mend = f"name another folder with {flag}" if flag else "change its permissions"
        raise ValueError(f"{there} cannot be written to: {mend}.")


def check_file(path: epath.Path, flag: str = "") -> None:
    """Check that a file can be written; nothing is left there.

    Args:
      path: the file; neither it nor its folder need exist.
      flag: the flag that named it, such as "--results"; empty for one inside a named folder.

    Raises:
      ValueError: it cannot; the message names the path.
    """
    if path.is_dir():
        mend = f"name a file with {flag}" if flag else "move it away"
        raise ValueError(f"{path} is a folder: {mend}.")
    check_folder(path.parent, flag)


def read_object(path: epath.Path, mend: str, most_bytes: int | None = None) -> dict[str, Any]:
    """Read the JSON object in a file.

    Args:
      path: an existing file.
      mend: how to fix a damaged file, the end of the error message.
      most_bytes: largest size that is accepted.

    Raises:
      ValueError: the file is damaged or larger; the message names it.
    """
    reason = "it holds no JSON object"
    try:
        if path.is_dir():
            reason = "it is a folder"
        elif most_bytes is not None and path.stat().length > most_bytes:
            reason = f"it is larger than {most_bytes >> 20} MiB"
        elif isinstance(tree := json.loads(path.read_bytes()), dict):
            return tree
    except (ValueError, RecursionError) as error:
        reason = brief(str(error))
    raise ValueError(f"{path} is damaged ({reason}): {mend}.")


def _takes_files(folder: epath.Path) -> bool:
    """Whether a folder can be written to; for root, permissions alone do not show this."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=folder):
            return True
    except OSError:
        return False
