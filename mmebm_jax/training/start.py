"""Training in one call, from a prepared run or from a configuration and data in memory."""

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from mmebm_jax.data.source import DataSplits
from mmebm_jax.method.train_state import TrainState
from mmebm_jax.training import hardware, loop
from mmebm_jax.training.run import Run, prepare


def train(
    run: Run | ConfigDict,
    data: DataSplits | None = None,
    workdir: epath.PathLike | None = None,
    **options: Any,
) -> tuple[TrainState, float]:
    """Train, or resume; see `loop.train`.

    Args:
      run: from `prepare`; or a configuration, as made by the files in configs/.
      data: only with a configuration: the data to train on, from `data.from_arrays`; None for the
        data set of `config.data`.
      workdir: only with a configuration: the run folder.
      options: `updates` and `draw` of `loop.train`.

    Raises:
      TypeError: a configuration without a folder.
      ValueError: the run is meant for an accelerator and there are only CPUs, see `hardware`; or
        as `loop.train`.
    """
    if isinstance(run, ConfigDict):
        if workdir is None:
            raise TypeError("workdir is missing: train(config, data, workdir).")
        run = prepare(run, workdir, data=data)
    elif data is not None or workdir is not None:
        raise TypeError("a prepared run has its data and workdir: train(run).")
    hardware.check_device(run)
    return loop.train(run, **options)
