"""Training in several processes: how they connect, and what only the first of them does."""

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
    """Connect to the other processes, if there are any; call it before any device is used.

    A process that gets no answer exits with a one-line message and the status `NO_ANSWER`.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: how many processes train together.
      process_id: index of this process, from 0.
      distributed: whether JAX can detect these three on a cluster or TPU slice.
      connect_seconds: how long to wait for the other processes.

    Raises:
      ValueError: the arguments do not fit together.
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
    # JAX aborts a process that waits too long with a stack trace; this timer fires earlier.
    timer = threading.Timer(connect_seconds, _give_up, (coordinator, connect_seconds))
    timer.daemon = True
    timer.start()
    jax.distributed.initialize(
        coordinator, num_processes, process_id, initialization_timeout=connect_seconds + 30
    )
    timer.cancel()


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return jax.process_index() == 0


def from_first(tree: Any) -> Any:
    """The first process's arrays and numbers, in every process."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def wait_for_all(name: str) -> None:
    """Wait until every process reaches this point."""
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
