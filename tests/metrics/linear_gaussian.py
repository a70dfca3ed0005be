"""A linear-Gaussian model with ten latents and a tilted mixture prior, all in closed form.

    p_0 = Σ_k π_k N(m_k, s_k² I),   E(z) = |z − c|² / (2 τ²) + e,   x = A z + σ ε

The tilted prior is again a mixture of the same number of Gaussians.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

Z, X, OFFSET, TAU, SIGMA = 10, 8, 0.7, 1.3, 0.5


class Mixture(NamedTuple):
    log_weight: np.ndarray  # shape=[K]
    mean: np.ndarray  # shape=[K, Z]
    variance: np.ndarray  # shape=[K]

    def sample(self, rng, num_samples):
        weight = np.exp(self.log_weight)
        chosen = rng.choice(len(weight), num_samples, p=weight / weight.sum())
        noise = rng.normal(size=(num_samples, self.mean.shape[1]))
        return self.mean[chosen] + np.sqrt(self.variance[chosen])[:, None] * noise


RNG = np.random.default_rng(0)
BASE = Mixture(np.log([0.5, 0.3, 0.2]), RNG.normal(0, 1.5, (3, Z)), np.array([0.5, 1.0, 0.8]))
CENTRE = RNG.normal(0, 0.5, Z)
MATRIX = RNG.normal(0, 0.6, (X, Z))


def energy(z):
    return ((z - CENTRE[None]) ** 2).sum(-1) / (2 * TAU**2) + OFFSET


def _tilt():
    """(log Z, the tilted prior), from products of Gaussians."""
    spread = BASE.variance + TAU**2
    distance = ((BASE.mean - CENTRE) ** 2).sum(1)
    log_mass = Z / 2 * np.log(TAU**2 / spread) - distance / (2 * spread) - OFFSET
    log_weight = BASE.log_weight + log_mass
    variance = 1 / (1 / BASE.variance + 1 / TAU**2)
    mean = variance[:, None] * (BASE.mean / BASE.variance[:, None] + CENTRE / TAU**2)
    log_normaliser = logsumexp(log_weight)
    return log_normaliser, Mixture(log_weight - log_normaliser, mean, variance)


LOG_NORMALISER, TILTED = _tilt()


def log_evidence(x, rows):
    """log p of the values `rows` of x `[B, X]` under the tilted prior, `[B]`."""
    matrix = MATRIX[rows]
    each = [
        weight
        + multivariate_normal(
            matrix @ mean, variance * matrix @ matrix.T + SIGMA**2 * np.eye(len(matrix))
        ).logpdf(x[:, rows])
        for weight, mean, variance in zip(*TILTED, strict=True)
    ]
    return logsumexp(each, axis=0)


def posterior_moments(x, rows):
    """Mean `[B, Z]` and covariance `[B, Z, Z]` of z given the values `rows` of x `[B, X]`."""
    matrix = MATRIX[rows]
    log_weight, means, covariances = [], [], []
    for weight, mean, variance in zip(*TILTED, strict=True):
        covariance = np.linalg.inv(np.eye(Z) / variance + matrix.T @ matrix / SIGMA**2)
        means.append((mean / variance + x[:, rows] @ matrix / SIGMA**2) @ covariance)
        covariances.append(covariance)
        marginal = variance * matrix @ matrix.T + SIGMA**2 * np.eye(len(matrix))
        log_weight.append(weight + multivariate_normal(matrix @ mean, marginal).logpdf(x[:, rows]))
    share = np.exp(np.array(log_weight) - logsumexp(log_weight, axis=0))  # shape=[K, B]
    mean = np.einsum("kb,kbz->bz", share, means)
    offset = np.array(means) - mean
    between = np.einsum("kb,kby,kbz->byz", share, offset, offset)
    return mean, np.einsum("kb,kyz->byz", share, covariances) + between
