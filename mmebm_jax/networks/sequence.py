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


class SequenceDecoder(nn.Module):
    """Latents `[B, Z]` → logits `[B, L, V]`."""

    shape: tuple[int, ...]
    hidden: int

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        """Decode a batch of latents."""
        features = nn.silu(nn.Dense(self.hidden)(latents))
        features = nn.silu(nn.Dense(self.hidden)(features))
        logits = nn.Dense(self.shape[0] * self.shape[1])(features)
        return logits.reshape(len(latents), *self.shape)


class SequenceTrunk(nn.Module):
    """Sequence `[B, L, V]` → features `[B, hidden]` of an energy."""

    hidden: int

    @nn.compact
    def __call__(self, sequence: jax.Array) -> jax.Array:
        """Extract a batch's features."""
        return nn.silu(nn.Dense(self.hidden)(sequence.reshape(len(sequence), -1)))
