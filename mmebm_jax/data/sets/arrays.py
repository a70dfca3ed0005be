"""Arrays given from Python, which a command cannot read again; see `mmebm_jax.data.from_arrays`."""

from mmebm_jax.data.source import DataSplits
from mmebm_jax.storage.validation import Record


class Options(Record):
    """No options: arrays are described where they are given."""


def load(options: Options, *, prepare: bool = True) -> DataSplits:
    """Raises an error, since the arrays are not stored.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "the data are arrays that were given from Python: evaluate this run from there, by "
        "training.prepare(config, workdir, data=from_arrays(...)), or put them into a folder."
    )
