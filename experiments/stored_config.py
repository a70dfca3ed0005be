"""Load a run's configuration from its folder, for commands that set fields without --config."""

from ml_collections import ConfigDict

from mmebm_jax.runs import checkpoint
from mmebm_jax.storage.places import place


def get_config(workdir: str) -> ConfigDict:
    """The configuration of the run in `workdir`."""
    return checkpoint.read_config(place(workdir))
