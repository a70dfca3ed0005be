"""Run commands in this process, and a small run for them to work on."""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import pytest
from absl import flags
from absl.testing import flagsaver
from etils import epath

from configs.polydigits import get_config
from experiments import command_line, main
from mmebm_jax.method import train_state
from mmebm_jax.runs import builders, checkpoint

SHRINK = {
    "data.num_modalities": 2,
    "data.num_train": 20,
    "data.num_test": 20,
    "model.num_latents": 3,
    "model.prior_hidden": 8,
    "model.width": 2,
    "model.hidden": 8,
    "model.energy_width": 2,
    "model.energy_hidden": 8,
}

SAVED = {}  # `save_run`'s cache: configuration and steps → folder and state


def digest(folder):
    """Every path under a folder with a hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def small_config(**changes):
    """A smaller smoke variant; in names of changes, two underscores stand for a dot."""
    config = get_config("smoke")
    config.update_from_flattened_dict(SHRINK)
    config.update_from_flattened_dict({n.replace("__", "."): v for n, v in changes.items()})
    return config


def save_run(folder, config, steps=(0,)):
    """Save checkpoints of a run at its start; returns the state."""
    key = config.to_json_best_effort(sort_keys=True), tuple(steps)
    if key not in SAVED:  # most tests in a file start with the same run
        kept = tempfile.TemporaryDirectory(prefix="mmebm_run_")
        SAVED[key] = kept, _saved_run(epath.Path(kept.name), config, steps)
    kept, state = SAVED[key]
    shutil.copytree(kept.name, folder, dirs_exist_ok=True)
    return state


def _saved_run(folder, config, steps):
    splits, optimisers = builders.build_data(config), builders.build_optimisers(config)
    model = builders.build_model(config, splits.fields)
    state = jax.jit(
        lambda key: train_state.create(key, model, optimisers, config.prior.num_components),
        compiler_options={"xla_backend_optimization_level": 0},
    )(jax.random.key(0))
    checkpoint.write_config(folder, config, splits)
    manager = checkpoint.open_manager(folder)
    for step in steps:
        checkpoint.save(manager, state._replace(step=jax.numpy.asarray(step)), {})
        manager.wait_until_finished()
    manager.close()
    return state


def run_here(capsys, *arguments, program=main):
    """Run `experiments.main` or another command in this process: (exit status, stderr)."""

    argv = ["main", *map(str, arguments)]

    def command():
        command_line.parse(argv)
        command_line.guarded(program.main)

    capsys.readouterr()
    # The flags for a config's fields are created from sys.argv.
    with flagsaver.flagsaver(), mock.patch.object(sys, "argv", argv):
        try:
            with pytest.raises(SystemExit) as caught:
                command()
        finally:
            flags.FLAGS.unparse_flags()
    return caught.value.code, capsys.readouterr().err


def assert_one_line(stderr, *named):
    """Assert that the error is one line and names all of these."""
    assert stderr.startswith("error: "), stderr
    assert stderr.count("\n") == 1, stderr
    assert stderr.endswith("\n")
    for name in named:
        assert str(name) in stderr


def first_files(folder, pattern):
    """Files under a folder that match a pattern, sorted."""
    return [path for path in sorted(Path(folder).rglob(pattern)) if path.is_file()]
