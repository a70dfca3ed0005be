"""How many clusters a learned prior needs: CMVAE's choice after training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax.distributions.base_prior import BasePrior, base_log_prob, log_responsibility


class ClusterScore(NamedTuple):
    """One number of clusters, and the quantities that judge it."""

    num_clusters: int
    entropy: float  # of p(c | z), mean over examples, in units of log num_clusters: 0 is certain
    log_likelihood: float  # log p(z) per dimension, nats, mean over examples
    score: float  # β · entropy − log_likelihood; the lowest wins


def choose_clusters(
    prior: BasePrior, latents: np.ndarray | jax.Array, beta: float
) -> tuple[BasePrior, list[ClusterScore]]:
    """Repeatedly drop the least used cluster, and keep the number with the lowest score.

    Palumbo et al. 2024 (CMVAE, ICLR) choose in this way after training; here the likelihood is that
    of the shared latents, whose prior consists of the clusters.

    Args:
      prior: prior with K clusters.
      latents: shared latents of training data, `[N, Z]`.
      beta: weight of the entropy, ≥ 0.

    Returns:
      The prior in the same shapes, with weight 0 for dropped clusters, and the scores of all
      numbers of clusters, from the most down to one.
    """
    z = jnp.asarray(latents, jnp.float32)
    log_weight, kept = prior.log_weight, np.isfinite(np.asarray(prior.log_weight))
    found: list[tuple[ClusterScore, jax.Array]] = []
    while kept.any():
        log_weight = jax.nn.log_softmax(jnp.where(jnp.asarray(kept), prior.log_weight, -jnp.inf))
        current = prior._replace(log_weight=log_weight)
        log_share = log_responsibility(current, z)
        share = jnp.exp(log_share)
        count = int(kept.sum())
        each = -jnp.where(share > 0, share * log_share, 0.0).sum(axis=-1)
        entropy = float(each.mean()) / np.log(count) if count > 1 else 0.0
        likelihood = float(base_log_prob(current, z).mean()) / z.shape[-1]
        score = ClusterScore(count, entropy, likelihood, beta * entropy - likelihood)
        found.append((score, log_weight))
        usage = np.where(kept, np.asarray(share.sum(axis=0)), np.inf)
        kept[usage.argmin()] = False
    best = min(found, key=lambda pair: pair[0].score)
    return prior._replace(log_weight=best[1]), [score for score, _ in found]
