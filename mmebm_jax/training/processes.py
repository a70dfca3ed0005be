"""Several processes that train together: how they meet, and what only the first of them does."""

import os
import sys
import threading
from typing import Any

import jax
from absl import flags
from jax.experimental import multihost_utils

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Train together with this TPU slice's or cluster's other hosts."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where it cannot be found out."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many train together.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)
_CONNECT_SECONDS = flags.DEFINE_integer(
    "connect_seconds", 300, "How long processes wait for each other.", 1
)

NO_ANSWER = 2  # exit status


def connect() -> None:
    """Meet the other processes, if the flags say that there are any; before any use of a device.

    A process that waits in vain ends with one line after `--connect_seconds`.

    Raises:
      ValueError: flags that do not belong together.
    """
    given = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if all(value is None for value in given) and not _DISTRIBUTED.value:
        return
    if any(value is None for value in given) and not _DISTRIBUTED.value:
        raise ValueError(
            "--coordinator, --num_processes and --process_id belong together: give all three, or "
            "--distributed where a cluster tells them."
        )
    address, count, index = given
    if count is not None and index is not None and index >= count:
        raise ValueError(
            f"--process_id is {index}: with --num_processes={count} give 0..{count - 1}."
        )
    # JAX ends a process that waits too long with a stack trace; this is a little earlier.
    timer = threading.Timer(_CONNECT_SECONDS.value, _give_up)
    timer.daemon = True
    timer.start()
    jax.distributed.initialize(
        address, count, index, initialization_timeout=_CONNECT_SECONDS.value + 30
    )
    timer.cancel()


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def from_first(tree: Any) -> Any:
    """The first process's arrays and numbers, in every process."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def wait_for_all(name: str) -> None:
    """Go on once every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _give_up() -> None:
    where = f" at {_COORDINATOR.value}" if _COORDINATOR.value else ""
    print(
        f"error: the other processes did not answer{where} within {_CONNECT_SECONDS.value} s: "
        "start them all, with one --coordinator and --num_processes, or raise --connect_seconds.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(NO_ANSWER)
