"""Location-scale families of latents: their densities and their noise."""

import jax
import jax.numpy as jnp
from jax.scipy.stats import laplace, norm

from mmebm_jax.typing import Diagonal

FAMILIES = ("gaussian", "laplace")


def log_density(
    family: str,
    values: jax.Array,
    location: jax.Array | float = 0.0,
    scale: jax.Array | float = 1.0,
) -> jax.Array:
    """Elementwise log-density, nats; `scale` is σ (Gaussian) or b (Laplace)."""
    density = norm if family == "gaussian" else laplace
    return density.logpdf(values, location, scale)


def standard_noise(key: jax.Array, family: str, shape: tuple[int, ...]) -> jax.Array:
    """Draw noise with location 0 and scale 1."""
    draw = jax.random.normal if family == "gaussian" else jax.random.laplace
    return draw(key, shape)


def sample(key: jax.Array, distribution: Diagonal, family: str) -> jax.Array:
    """Draw each element, reparametrised."""
    noise = standard_noise(key, family, distribution.location.shape)
    return distribution.location + distribution.scale * noise


def divergence_from_standard(gaussian: Diagonal) -> jax.Array:
    """KL(N(location, scale²) ‖ N(0, I)), summed over the last axis, nats."""
    variance = jnp.square(gaussian.scale)
    each = variance + jnp.square(gaussian.location) - 1.0 - 2.0 * jnp.log(gaussian.scale)
    return 0.5 * each.sum(axis=-1)


def divergence(gaussian: Diagonal, other: Diagonal) -> jax.Array:
    """KL between two diagonal Gaussians, summed over the last axis, nats."""
    return divergence_from_standard(
        Diagonal((gaussian.location - other.location) / other.scale, gaussian.scale / other.scale)
    )
