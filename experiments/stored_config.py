"""The configuration of a run by its folder, for commands that set fields of it without --config."""

from ml_collections import ConfigDict

from mmebm_jax.runs import checkpoint
from mmebm_jax.storage.places import place


def get_config(workdir: str) -> ConfigDict:
    """What the run in `workdir` was made with."""
    return checkpoint.read_config(place(workdir))
