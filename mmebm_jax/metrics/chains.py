"""Diagnostics of short chains, which have no acceptance test."""

import math

import numpy as np
from arviz_stats.base import array_stats

from mmebm_jax.method.langevin import Chain, LangevinInfo

FEWEST_STEPS = 4  # of a chain, for split R-hat to split it in half


def chain_health(
    info: LangevinInfo, chain: Chain, num_dimensions: int, num_repeats: int
) -> dict[str, float]:
    """Numbers that distinguish a chain that explores from one that drifts, jitters or is stuck.

    - "drift_to_noise": length of a step's drift over that of its noise, s|∇U| / (2 √(T d)). Far
      above 1 the chain descends, far below 1 it diffuses. Absent at T = 0.
    - "autocorrelation": of the energy from one step to the next, the median over all chains.
    - "r_hat" and "r_hat_worst": rank-normalised split R-hat of the energy (Vehtari et al. 2021,
      arXiv:1903.08008), median and largest over targets. Short chains that start far apart have
      values far from 1; the networks learn with this bias.

    Args:
      info: of a run, `[num_steps, num_targets · num_repeats]`; repeats of a target are adjacent.
      chain: the run's settings.
      num_dimensions: d, of one example's position.
      num_repeats: number of chains per target.

    Returns:
      The numbers that can be computed and are finite; chains of fewer than four steps have no
      R-hat.
    """
    energy, norm = (np.asarray(leaf, np.float64) for leaf in (info.energy, info.gradient_norm))
    health = {}
    if chain.temperature > 0 and num_dimensions:
        if chain.gradient_clip > 0:
            norm = np.minimum(norm, chain.gradient_clip)
        noise = 2 * math.sqrt(chain.temperature * num_dimensions)
        health["drift_to_noise"] = float(np.mean(chain.step_size * norm / noise))
    if len(energy) >= FEWEST_STEPS:
        # A chain that does not move has no autocorrelation; NumPy should not warn about this.
        with np.errstate(invalid="ignore", divide="ignore"):
            lags = array_stats.autocorr(energy.T)
            health["autocorrelation"] = float(np.median(lags[:, 1]))
            if num_repeats > 1:
                repeated = energy.reshape(len(energy), -1, num_repeats)
                r_hat = array_stats.rhat(repeated, chain_axis=2, draw_axis=0)
                health |= {"r_hat": float(np.median(r_hat)), "r_hat_worst": float(np.max(r_hat))}
    return {name: value for name, value in health.items() if math.isfinite(value)}
