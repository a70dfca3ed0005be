"""Classifiers that judge samples: they return logits, and features for measuring distances."""

import flax.linen as nn
import jax

NUM_FEATURES = 64
_INIT = nn.initializers.he_uniform()  # compiles three times faster than truncated normals


def _head(hidden: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    hidden = hidden.reshape(len(hidden), -1)
    hidden = nn.relu(nn.Dense(128, kernel_init=_INIT)(hidden))
    features = nn.relu(nn.Dense(NUM_FEATURES, kernel_init=_INIT, name="features")(hidden))
    return nn.Dense(num_classes, kernel_init=_INIT, name="logits")(features), features


class ImageClassifier(nn.Module):
    """Two strided convolutions and two dense layers.

    Maps `[B, H, W, C]` float32 in [-1, 1], H and W divisible by 4, to logits
    `[B, num_classes]` and features `[B, NUM_FEATURES]` (non-negative).
    """

    num_classes: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (logits `[B, num_classes]`, features `[B, NUM_FEATURES]`)."""
        # Strides, not pooling: max pooling's gradient alone would triple a step's time on a CPU.
        hidden = nn.relu(nn.Conv(32, (5, 5), strides=(2, 2), kernel_init=_INIT)(inputs))
        hidden = nn.relu(nn.Conv(64, (3, 3), strides=(2, 2), kernel_init=_INIT)(hidden))
        return _head(hidden, self.num_classes)


class DenseClassifier(nn.Module):
    """Dense layers on flattened inputs, for text and vectors.

    Maps `[B, L, V]` (one-hot or probabilities) or `[B, D]`, float32, to logits `[B, num_classes]`
    and features `[B, NUM_FEATURES]` (non-negative).
    """

    num_classes: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (logits `[B, num_classes]`, features `[B, NUM_FEATURES]`)."""
        return _head(inputs, self.num_classes)
