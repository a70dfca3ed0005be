"""Several processes that train together: how they meet, and what only the first of them does."""

import os
import sys
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

NO_ANSWER = 2  # exit status


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    distributed: bool = False,
    connect_seconds: int = 300,
) -> None:
    """Connect to the other processes, if there are any; before any use of a device.

    A process that waits in vain ends with one line and the status `NO_ANSWER`.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: how many train together.
      process_id: which of them this is, from 0.
      distributed: whether a cluster, or a TPU slice, knows these three by itself.
      connect_seconds: how long to wait for the others.

    Raises:
      ValueError: arguments that do not belong together.
    """
    given = (coordinator, num_processes, process_id)
    if all(value is None for value in given) and not distributed:
        return
    if any(value is None for value in given) and not distributed:
        raise ValueError(
            "coordinator, num_processes and process_id belong together: give all three, or "
            "distributed where a cluster knows them."
        )
    if num_processes is not None and process_id is not None and process_id >= num_processes:
        raise ValueError(
            f"process_id is {process_id}: with num_processes={num_processes} give "
            f"0..{num_processes - 1}."
        )
    # JAX ends a process that waits too long with a stack trace; this is a little earlier.
    timer = threading.Timer(connect_seconds, _give_up, (coordinator, connect_seconds))
    timer.daemon = True
    timer.start()
    jax.distributed.initialize(
        coordinator, num_processes, process_id, initialization_timeout=connect_seconds + 30
    )
    timer.cancel()


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def from_first(tree: Any) -> Any:
    """The first process's arrays and numbers, in every process."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def wait_for_all(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _give_up(coordinator: str | None, connect_seconds: int) -> None:
    where = f" at {coordinator}" if coordinator else ""
    print(
        f"error: the other processes did not answer{where} within {connect_seconds} s: start them "
        "all, with the same coordinator and num_processes, or raise connect_seconds.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(NO_ANSWER)
