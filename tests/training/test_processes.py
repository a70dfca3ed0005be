import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from mmebm_jax import training as train
from tests.training.test_loop import make_config, rows

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.slow]
TRAIN = """
import os, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_disable_most_optimizations", True)
from absl import flags
from etils import epath
import test_loop
from experiments import command_line
from mmebm_jax import training
from mmebm_jax.runs import checkpoint
from mmebm_jax.training import log

last = flags.DEFINE_integer("last", None, "Step after which the process dies.")
flags.FLAGS(sys.argv)
add, save = log.Log.add, checkpoint.save

def add_or_die(self, step, metrics):
    if last.value is not None and step > last.value:
        os._exit(9)
    add(self, step, metrics)

def save_now(manager, *args, **options):
    save(manager, *args, **options)
    manager.wait_until_finished()

log.Log.add, checkpoint.save = add_or_die, save_now

def main():
    workdir = epath.Path(command_line.WORKDIR.value)
    training.train(training.prepare(test_loop.make_config(), workdir))

command_line.guarded(main)
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(program, *arguments):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])
    }
    command = [sys.executable, "-c", program, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def train_together(workdir, *arguments):
    """Train with two processes in one folder; returns their exit statuses."""
    together = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    processes = [
        start(TRAIN, f"--workdir={workdir}", f"--process_id={i}", *together, *arguments)
        for i in range(2)
    ]
    ended = [(process.communicate(timeout=500), process.returncode) for process in processes]
    for (_, errors), status in ended:
        assert status in (0, 9), errors
    return {status for _, status in ended}


def losses(workdir):
    return [
        {name: value for name, value in row.items() if name.startswith("loss/")}
        for row in rows(workdir)
    ]


def test_two_processes_train_and_resume_as_one(tmp_path):
    alone, together = epath.Path(tmp_path / "alone"), epath.Path(tmp_path / "together")
    train.train(train.prepare(make_config(), alone))

    assert train_together(together, "--last=2") == {9}
    shutil.copytree(together, tmp_path / "moved")
    assert train_together(together) == {0}
    moved = epath.Path(tmp_path / "moved")
    train.train(train.prepare(make_config(), moved))

    expected = losses(alone)
    assert len(expected) == 4
    for workdir in (together, moved):
        found = losses(workdir)
        assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4]
        for left, right in zip(expected, found, strict=True):
            assert left.keys() == right.keys()
            np.testing.assert_allclose(
                [right[n] for n in left], list(left.values()), rtol=1e-4, atol=1e-5
            )
    # Only one process writes these.
    assert len(list((tmp_path / "together").glob("config.json*"))) == 1
    assert json.loads((together / "config.json").read_text())["num_steps"] == 4


MEET = """
import sys
from absl import flags
from experiments import command_line
flags.FLAGS(sys.argv)
command_line.guarded(lambda: None)
"""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=1"], "127.0.0.1:1"),
        (["--num_processes=2", "--process_id=1"], "coordinator"),
        (["--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=2"], "process_id is 2"),
    ],
)
def test_processes_that_cannot_meet_end_with_one_line(arguments, named):
    child = start(MEET, *arguments, "--connect_seconds=2")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 2
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert named in line
    assert "Traceback" not in errors
