"""Being asked to stop: the step is finished, everything is saved, and the run can go on later.

One process notes the signals itself. Several must stop at the same step: JAX notes SIGTERM for
them, as clusters send it to what they preempt, and agrees on the step.
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
    """Notes SIGTERM and SIGINT while it is open; a second one ends the process at once.

    Python calls handlers in the main thread alone: opened in another, nothing is noted.
    """

    def __init__(self) -> None:
        """Nothing is asked yet."""
        self._number: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def exit_status(self, step: int) -> int | None:
        """What a shell reports of a process that the signal ended; None if none was sent.

        Several processes call it together, once every step.
        """
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self._number = signal.SIGTERM
        return None if self._number is None else 128 + self._number

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._number = number
