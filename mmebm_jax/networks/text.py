"""Networks for short text `[B, L, V]`, one-hot, or probabilities where a chain moves it."""

import flax.linen as nn
import jax


class TextExpert(nn.Module):
    """Text `[B, L, V]` → features `[B, hidden]` of an inference network."""

    hidden: int

    @nn.compact
    def __call__(self, sequence: jax.Array) -> jax.Array:
        """Encode a batch of sequences."""
        features = nn.silu(nn.Dense(self.hidden)(sequence.reshape(len(sequence), -1)))
        return nn.silu(nn.Dense(self.hidden)(features))


class TextTrunk(nn.Module):
    """Text `[B, L, V]` → features `[B, hidden]`: how text enters the data energy.

    `networks.joint.JointEnergy` concatenates the features with those of other modalities.
    `modalities.text` makes the one-hot and chooses the trunk by `model.networks`: this one, or the
    one in `text_residual` or `text_transformer`.
    """

    hidden: int

    @nn.compact
    def __call__(self, sequence: jax.Array) -> jax.Array:
        """Extract a batch's features."""
        return nn.silu(nn.Dense(self.hidden)(sequence.reshape(len(sequence), -1)))
