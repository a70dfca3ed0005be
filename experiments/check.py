"""Dry run: print a run's settings, plan and memory, compile one step, and write nothing."""

import shutil
import time
from typing import Any

import jax
from ml_collections import ConfigDict
from tabulate import tabulate

from mmebm_jax.method.model import NETWORKS
from mmebm_jax.method.plan import Terms
from mmebm_jax.method.train_state import Optimisers
from mmebm_jax.runs import builders, checkpoint, schema
from mmebm_jax.storage.files import nearest_existing
from mmebm_jax.training import Run, schedule
from mmebm_jax.training.compiled_update import abstract_arguments, compiled_update

MEGABYTE = 2**20
# Steps at which losses become active. The base prior may well be fitted only at the end.
BEGINNINGS = ("warmup_steps", "prior.start_step", "energy.start_step", "schedule.freeze_step")


def plan(run: Run) -> str:
    """The plan of a prepared run as text; compiles the update of its last phase.

    Raises:
      ValueError: the checkpoints will not fit on the disk.
    """
    config, mesh = run.config, run.mesh
    optimisers = builders.build_optimisers(config)
    arguments = abstract_arguments(run, optimisers)
    state = arguments[0]
    phases = schedule.phases(config)
    compiled, seconds = _compile(run, optimisers, arguments, phases[-1].terms)
    memory = compiled.memory_analysis()
    on_device = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    devices = list(mesh.devices.flat)

    size = _num_bytes(state)
    rows = [
        ("data", _data_line(run)),
        ("devices", f"{mesh.size} x {devices[0].device_kind}, {jax.process_count()} processes"),
        ("batch", f"{config.batch_size}, of which {config.batch_size // mesh.size} a device"),
        ("steps", _steps_line(run)),
        ("compiled", f"the last phase's update, in {seconds:.1f} s"),
        ("memory", f"{on_device / MEGABYTE:.0f} MB a device in that update"),
        ("checkpoints", _checkpoint_line(run, size)),
    ]
    networks = [
        (name, sum(leaf.size for leaf in leaves), f"{_num_bytes(leaves) / MEGABYTE:.2f}")
        for name in NETWORKS
        if (leaves := jax.tree.leaves(state.params[name]))
    ]
    learning = [(phase.start, ", ".join(phase.terms.trained)) for phase in phases]
    return "\n\n".join(
        [
            tabulate(rows, tablefmt="plain"),
            tabulate(networks, headers=("network", "parameters", "MB"), intfmt=","),
            tabulate(learning, headers=("from step", "networks that learn")),
            _settings(config),
            *(f"warning: {line}" for line in never_acting(config)),
        ]
    )


def never_acting(config: ConfigDict) -> list[str]:
    """One line for each step at which something would start but that the run never reaches."""
    steps = {name: step for name, step in schedule.steps(config).items() if name in BEGINNINGS}
    return [
        f"config.{name} is {step}, but the run ends at step {config.num_steps}: what would begin "
        "there never acts. Lower it, or raise config.num_steps."
        for name, step in steps.items()
        if config.num_steps <= step < schema.NEVER and _begins(config, name, step)
    ]


def _begins(config: ConfigDict, name: str, step: int) -> bool:
    """Whether this field makes different losses active from this step on."""
    later = config.copy_and_resolve_references()
    later.update_from_flattened_dict({name: step + 1})
    return builders.terms_at(config, step) != builders.terms_at(later, step)


def _settings(config: ConfigDict) -> str:
    """The fields that differ from their defaults, with both values."""
    rows = [
        (f"config.{name}", str(value), str(default))
        for name, (value, default) in schema.differences(config).items()
    ]
    if not rows:
        return "every field is at its default"
    return tabulate(rows, headers=("field", "value", "default"), disable_numparse=True)


def _compile(
    run: Run, optimisers: Optimisers, arguments: tuple[Any, ...], terms: Terms
) -> tuple[Any, float]:
    begin = time.monotonic()
    lowered = compiled_update(run, optimisers, terms).lower(*arguments)
    return lowered.compile(), time.monotonic() - begin


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _data_line(run: Run) -> str:
    fields = ", ".join(
        f"{name} ({field.kind} {'x'.join(map(str, field.shape))})"
        for name, field in run.splits.fields.items()
    )
    return f"{len(run.splits.train)} to train, {len(run.splits.test)} to test: {fields}"


def _steps_line(run: Run) -> str:
    config = run.config
    done = checkpoint.newest_step(run.workdir)
    epochs = config.num_steps * config.batch_size / len(run.splits.train)
    line = f"{config.num_steps}, {epochs:.1f} epochs"
    return line if done is None else f"{line}; {done} are done and saved"


def _checkpoint_line(run: Run, size: int) -> str:
    config, workdir = run.config, run.workdir
    # While a new checkpoint is written, the ones it replaces are still on disk.
    total = (config.keep_checkpoints + 1) * size
    line = (
        f"every {config.checkpoint_every} steps, the newest {config.keep_checkpoints} kept: "
        f"{total / MEGABYTE:.0f} MB at most"
    )
    if "://" in str(workdir):
        return line
    free = shutil.disk_usage(nearest_existing(workdir)).free
    if free < total:
        raise ValueError(
            f"checkpoints of up to {total / MEGABYTE:.0f} MB do not fit beside {workdir}, where "
            f"{free / MEGABYTE:.0f} MB are free: lower config.keep_checkpoints or move --workdir."
        )
    return f"{line} of {free / MEGABYTE:.0f} MB free"
