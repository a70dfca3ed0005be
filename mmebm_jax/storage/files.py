"""Atomic file writes: neither a reader nor an interrupted run ever sees half a file."""

import os

from etils import epath


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
