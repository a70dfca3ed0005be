"""Divide a grid of runs over machines that share a folder: `compare --shard=i/n`.

Every machine takes its own runs first and then any that no other machine has started or is working
on, so a slow or dead machine holds nobody up. A run is claimed by a lock held by the operating
system. The lock is released when the process ends for whatever reason, and the next machine to
claim the run resumes it from its newest checkpoint. The folder's file system must support locks, as
local disks and NFS 4 do; object stores do not.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import filelock
from etils import epath

from mmebm_jax.storage.validation import plain

LOCK = "shard.lock"


class Shard(NamedTuple):
    """One machine's place among several."""

    place: int  # from 0
    total: int


def parse(text: str) -> Shard:
    """Parse a shard flag such as "2/3", the second of three.

    Raises:
      ValueError: the text has another form.
    """
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard={plain(text)}: give i/n with 1 <= i <= n, as --shard=2/3.")
    return Shard(int(match[1]) - 1, int(match[2]))


def claims(
    folders: Sequence[epath.Path], shard: Shard, is_done: Callable[[epath.Path], bool]
) -> Iterator[epath.Path]:
    """Yield the runs for this machine one by one, each locked until the next is requested.

    Args:
      folders: folders of all runs, in the same order on every machine.
      shard: this machine.
      is_done: whether a run is finished; checked again under the lock.

    Raises:
      ValueError: the folders are in an object store, which has no locking.
    """
    own = [f for number, f in enumerate(folders) if number % shard.total == shard.place]
    for folder in [*own, *(f for f in folders if f not in own)]:
        if "://" in str(folder):
            raise ValueError(f"{folder} is in an object store, which has no locking: share a disk.")
        if is_done(folder):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(folder / LOCK, timeout=0):
                if not is_done(folder):
                    yield folder
        except filelock.Timeout:
            continue  # Another machine is working on it.


@contextmanager
def alone(folder: epath.Path, name: str) -> Iterator[None]:
    """Wait until no other machine runs the task of this name, then reserve it for this one."""
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / f"{name}.lock"):
        yield
