"""What the library needs to know about a kind of modality; each kind is defined in one file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from mmebm_jax.networks.parts import Sizes
from mmebm_jax.typing import Alphabet

Shape = tuple[int, ...]


class KindNetworks(NamedTuple):
    """One choice of networks for a kind: (shape of an example, sizes) → an unbound module.

    An expert maps examples `[B, *shape]` to features for the inference network, a decoder maps
    latents `[B, Z]` to the likelihood's parameters `[B, *shape]`, and a trunk maps examples to
    features for the joint energy.
    """

    expert: Callable[[Shape, Sizes], nn.Module]
    decoder: Callable[[Shape, Sizes], nn.Module]
    trunk: Callable[[Shape, Sizes], nn.Module]


@dataclass(frozen=True)
class Kind:
    """A kind of modality.

    Attributes:
      name: name of the kind, as in `Field.kind` and `config.likelihood`.
      values: what an example holds, "numbers" or "tokens"; decides which likelihoods apply.
      dimensions: names of the axes of an example in model range, such as "height", "width".
      bounds: range to which a data-space chain is clipped.
      raw_dtype: dtype of raw data.
      accepted: description, for users, of the arrays that they may give.
      raw_shape: shape of an example → shape of a raw one.
      is_raw: dtype → whether it is a dtype of raw data.
      from_raw: (raw `[..., *raw_shape]`, shape) → float32 in model range.
      to_raw: model range → raw data, the inverse of `from_raw`.
      problem_of_shape: what is wrong with a shape of the right rank, or "".
      problems: raw examples `[B, *raw_shape]`, shape → (which are refused, `bool[B]`, and why).
      networks: by name, the choices of `config.model.networks`. A name applies to all kinds of a
        run; a kind that lacks it is refused, so that no run silently gets other networks.
      classifier: number of classes → the classifier that judges samples.
      augment: (random generator, raw examples) → augmented ones, for training the classifier.
      draw: (examples in model range, alphabet) → uint8 pictures `[N, H, W, 3]` or N lines of text.
    """

    name: str
    values: str
    dimensions: tuple[str, ...]
    bounds: tuple[float, float]
    raw_dtype: Any
    accepted: str
    raw_shape: Callable[[Shape], Shape]
    is_raw: Callable[[np.dtype], bool]
    from_raw: Callable[[Any, Shape], jax.Array]
    to_raw: Callable[[np.ndarray], np.ndarray]
    problem_of_shape: Callable[[Shape], str]
    problems: Callable[[np.ndarray, Shape], tuple[np.ndarray, str]]
    networks: Mapping[str, KindNetworks]
    classifier: Callable[[int], nn.Module]
    augment: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    draw: Callable[[np.ndarray, Alphabet], np.ndarray | list[str]]

    @property
    def rank(self) -> int:
        """Number of axes of one example in model range."""
        return len(self.dimensions)


def unchanged(_: np.random.Generator, raw: np.ndarray) -> np.ndarray:
    """Return `raw`, as the `augment` of a kind without augmentation."""
    return raw
