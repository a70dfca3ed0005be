"""Shapes of a run's sampling weights, determined without allocating them."""

import math

import jax

from mmebm_jax.method.model import Model
from mmebm_jax.method.train_state import Weights

MOST_BYTES = 16 * 2**30  # of sampling weights; training takes four times as much


def template(model: Model, num_components: int) -> Weights:
    """Shapes and types of the sampling weights, without computing them.

    Raises:
      ValueError: they would take more than `MOST_BYTES`.
    """
    weights = jax.eval_shape(
        lambda: Weights(
            model.init(jax.random.key(0)),
            model.standard_prior(num_components),
        )
    )
    parts = {f"the network {name!r}": tree for name, tree in weights.params.items()}
    parts["the mixture of config.prior.num_components"] = weights.base_prior
    size = {
        name: sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for name, tree in parts.items()
    }
    if sum(size.values()) > MOST_BYTES:
        largest = max(size, key=lambda name: size[name])
        raise ValueError(
            f"the model would take {sum(size.values()) / 2**30:.0f} GiB, more than "
            f"{MOST_BYTES // 2**30}, most of it {largest}: lower the sizes in config.model."
        )
    return weights
