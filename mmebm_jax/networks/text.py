"""Networks for short categorical sequences `[B, L, V]`, one-hot or relaxed."""

import flax.linen as nn
import jax


class SequenceExpert(nn.Module):
    """Sequence `[B, L, V]` → features `[B, hidden]` of an inference network."""

    hidden: int

    @nn.compact
    def __call__(self, sequence: jax.Array) -> jax.Array:
        """Encode a batch of sequences."""
        features = nn.silu(nn.Dense(self.hidden)(sequence.reshape(len(sequence), -1)))
        return nn.silu(nn.Dense(self.hidden)(features))


class SequenceTrunk(nn.Module):
    """Sequence `[B, L, V]` → features `[B, hidden]` of an energy."""

    hidden: int

    @nn.compact
    def __call__(self, sequence: jax.Array) -> jax.Array:
        """Extract a batch's features."""
        return nn.silu(nn.Dense(self.hidden)(sequence.reshape(len(sequence), -1)))
