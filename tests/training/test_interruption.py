import os
import signal
import subprocess
import sys
import threading

import pytest

from mmebm_jax.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_its_handler_comes_back(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.exit_status(1) is None
        os.kill(os.getpid(), number)
        assert interruption.exit_status(2) == 128 + number
    assert signal.getsignal(number) == before


def test_a_second_signal_ends_the_process():
    program = (
        "import os, signal\n"
        "from mmebm_jax.training.interruption import Interruption\n"
        "with Interruption():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('first', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('second', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout.split() == ["first"]


def test_another_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter():
        with Interruption() as interruption:
            seen.append((signal.getsignal(signal.SIGTERM), interruption.exit_status(1)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(before, None)]
