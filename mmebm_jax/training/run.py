"""Set-up of a run: builds everything from the configuration and checks it before compilation."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import filelock
import jax
from etils import epath
from ml_collections import ConfigDict

from mmebm_jax.data.checks import checked
from mmebm_jax.data.source import DataSplits, Source
from mmebm_jax.method.model import Model
from mmebm_jax.runs import builders, checkpoint, sharding
from mmebm_jax.runs.template import template
from mmebm_jax.storage.files import check_folder
from mmebm_jax.storage.places import place
from mmebm_jax.training import processes, writers

# What training writes in a run folder.
FOLDERS = ("checkpoints", "images")
FILES = ("config.json", "data.json", "metrics.jsonl")


class Run(NamedTuple):
    """The objects built from a configuration."""

    config: ConfigDict
    workdir: epath.Path
    splits: DataSplits
    train_source: Source  # the training split, with modalities hidden by `config.missing_ratio`
    model: Model
    mesh: jax.sharding.Mesh


def prepare(
    config: ConfigDict,
    workdir: epath.PathLike,
    *,
    prepare_data: bool = True,
    data: DataSplits | None = None,
) -> Run:
    """Build everything and check it; nothing is compiled, and only data sets are written.

    Args:
      config: as made by the files in configs/; it may have more steps (`num_steps`) than the run
        in `workdir` was started with, see `loop.train`.
      workdir: the run folder, local or remote; it need not exist.
      prepare_data: whether a data set that is missing on disk may be built.
      data: used instead of the data set of `config.data`; the run's configuration records this.

    Raises:
      ValueError, FileNotFoundError: one line that names the problem and the remedy.
    """
    workdir = place(workdir)
    _check_workdir(workdir)
    if data is not None:
        config = ConfigDict(config.to_dict() | {"data": {"name": "arrays"}})
    builders.validate(config)
    writers.check(config.tracker)
    checkpoint.check_config(workdir, config, may_extend=True)
    _mesh(config)  # checks that the devices divide the batch, before data are built
    # Only the first process builds a data set that is missing.
    if not processes.is_first():
        processes.wait_for_all("data set built")
    splits = checked(data) if data else builders.build_data(config, prepare=prepare_data)
    if processes.is_first():
        processes.wait_for_all("data set built")
    return on_data(config, workdir, splits)


def on_data(config: ConfigDict, workdir: epath.Path, splits: DataSplits) -> Run:
    """The last part of `prepare`, for data that are already built; several runs may share them.

    Raises:
      ValueError: the configuration, or what is in the folder, does not fit the data.
    """
    mesh = _mesh(config)
    checkpoint.check_data(workdir, splits)
    if config.batch_size > len(splits.train):
        raise ValueError(
            f"config.batch_size is {config.batch_size}, but the training set holds "
            f"{len(splits.train)} examples: lower it."
        )
    if 2 * config.prior.num_components > len(splits.train):
        raise ValueError(
            f"config.prior.num_components is {config.prior.num_components}, but the training set "
            f"holds {len(splits.train)} examples, fewer than two for each: lower it."
        )
    model = builders.build_model(config, splits.fields)
    template(model, config.prior.num_components)  # raises an error for absurd sizes
    return Run(config, workdir, splits, builders.build_train_source(config, splits), model, mesh)


def _mesh(config: ConfigDict) -> jax.sharding.Mesh:
    mesh = sharding.data_mesh()
    sharding.check_batch_size(
        config.batch_size // config.revision_stride // config.accumulation_steps, mesh
    )
    return mesh


def _check_workdir(workdir: epath.Path) -> None:
    """Check that a run can write to its folder.

    Raises:
      ValueError: it cannot; the message names the path.
    """
    check_folder(workdir, "--workdir")
    for name in FOLDERS:
        if (workdir / name).exists() and not (workdir / name).is_dir():
            raise ValueError(f"{workdir / name} is a file, where a run has a folder: move it away.")
    for name in FILES:
        if (workdir / name).is_dir():
            raise ValueError(f"{workdir / name} is a folder, where a run has a file: move it away.")


@contextlib.contextmanager
def sole_writer(workdir: epath.Path) -> Iterator[None]:
    """Lock a folder so that no other process trains in it; object stores have no locking.

    Raises:
      ValueError: another process trains in it.
    """
    if "://" in str(workdir) or not processes.is_first():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        # The lock belongs to the process, not to the file, so a killed run leaves no lock behind.
        with filelock.FileLock(workdir / ".lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise ValueError(
            f"another process trains in {workdir}: wait for it, or choose another --workdir."
        ) from error
