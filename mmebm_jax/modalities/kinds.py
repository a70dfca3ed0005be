"""All kinds of modality. To add one, write a file like its neighbours and list it here."""

from mmebm_jax.modalities.category import CATEGORY
from mmebm_jax.modalities.image import IMAGE
from mmebm_jax.modalities.kind import Kind
from mmebm_jax.modalities.likelihoods import LIKELIHOODS
from mmebm_jax.modalities.text import TEXT
from mmebm_jax.modalities.vector import VECTOR

KINDS: dict[str, Kind] = {kind.name: kind for kind in (IMAGE, TEXT, VECTOR, CATEGORY)}

# Every set of networks that a kind has, by name, in order of appearance.
NETWORKS: tuple[str, ...] = tuple(
    dict.fromkeys(name for kind in KINDS.values() for name in kind.networks)
)


def likelihoods_of(kind: str) -> tuple[str, ...]:
    """Return the names of the likelihoods that apply to a kind."""
    values = KINDS[kind].values
    return tuple(name for name, likelihood in LIKELIHOODS.items() if likelihood.values == values)
