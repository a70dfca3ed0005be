"""Signals that ask a run to stop: it finishes the step, saves, and can be resumed later.

A single process handles the signals itself. Several processes must stop at the same step: for them
JAX handles SIGTERM, which clusters send when they preempt a job, and agrees on the step.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Context manager that records SIGTERM and SIGINT; a second one ends the process at once.

    Python calls handlers only in the main thread: entered in another one, it records nothing.
    """

    def __init__(self) -> None:
        """Start without a signal recorded."""
        self._number: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        """Install the handlers."""
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the former handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def exit_status(self, step: int) -> int | None:
        """The status that a shell reports for a process ended by the signal; None without one.

        All processes of a run must call this together, once every step.
        """
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self._number = signal.SIGTERM
        return None if self._number is None else 128 + self._number

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._number = number
