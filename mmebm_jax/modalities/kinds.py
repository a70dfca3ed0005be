"""The kinds of modality there are. A new one is a file like its neighbours, and a line here."""

from mmebm_jax.modalities.image import IMAGE
from mmebm_jax.modalities.kind import Kind
from mmebm_jax.modalities.text import TEXT
from mmebm_jax.modalities.vector import VECTOR

KINDS: dict[str, Kind] = {kind.name: kind for kind in (IMAGE, TEXT, VECTOR)}
