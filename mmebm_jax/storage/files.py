"""Atomic file writes, so that nobody ever sees half a file, and what files and folders hold."""

import json
import os
import tempfile
from typing import Any

from etils import epath

from mmebm_jax.storage.validation import brief


def write_whole(path: epath.Path, content: bytes | str) -> None:
    """Write aside, then rename into place; an existing file stays until the new one is complete."""
    # Processes that share a folder must not write each other's halves.
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
    """Refuse a folder that cannot be made or written to; nothing is left there.

    Args:
      path: of the folder, which need not exist.
      flag: that named it, as "--workdir"; empty for one below a folder that was named.

    Raises:
      ValueError: one line that names the place.
    """
    if "://" in str(path):  # Only writing shows whether an object store may be written to.
        return
    there = nearest_existing(path)
    if not there.is_dir():
        mend = f"name a folder with {flag}" if flag else "move it away"
        raise ValueError(f"{there} is a file: {mend}.")
    if not _takes_files(there):
        mend = f"name another folder with {flag}" if flag else "change its permissions"
        raise ValueError(f"{there} cannot be written to: {mend}.")


def check_file(path: epath.Path, flag: str = "") -> None:
    """Refuse a file that cannot be written; nothing is left there.

    Args:
      path: of the file, which need not exist, nor its folder.
      flag: that named it, as "--results"; empty for one in a folder that was named.

    Raises:
      ValueError: one line that names the place.
    """
    if path.is_dir():
        mend = f"name a file with {flag}" if flag else "move it away"
        raise ValueError(f"{path} is a folder: {mend}.")
    check_folder(path.parent, flag)


def read_object(path: epath.Path, mend: str, most_bytes: int | None = None) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
      path: of a file that is there.
      mend: of a damaged one, the end of the line.
      most_bytes: a larger one is refused.

    Raises:
      ValueError: it is damaged or larger; one line that names it.
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
    """Whether a folder can be written to; for root, permissions alone do not tell."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=folder):
            return True
    except OSError:
        return False
