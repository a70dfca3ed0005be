"""Calibration of posteriors: does q(z | x) contain the truth as often as it claims?

Simulation-based calibration (Talts et al. 2018, arXiv:1804.06788): draw z* from the prior, x from
the generator given z*, and L draws of z given x from the inference to be checked. If these come
from the posterior, the rank of z* among them is uniform on 0 … L. Many ranks near both ends mean
that q is too narrow, many in the middle that it is too broad, and a slope that it is shifted. Draws
from one posterior must be independent: end points of separate chains, not states of one.

Uniform ranks are necessary, not sufficient: draws from the prior, which ignore x, have uniform
ranks in every latent. Ranks of log p(x, z) reveal them (Modrák et al. 2023, arXiv:2211.02383), so
test those too. This checks the inference against the *model*, not the model against data.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
_FEWEST_IN_A_BIN = 5  # expected count, below which the chi-squared approximation fails


def calibration_ranks(truth: Any, draws: Any) -> np.ndarray:
    """Rank of each true value among the draws.

    Args:
        truth: `[N, D]`, the latents that the data were generated from, or `[N]`, one quantity such
            as log p(x, z) at these latents.
        draws: `[N, L, D]` or `[N, L]`, the draws inferred from each x.

    Returns:
        `int[N, D]` or `int[N]`, 0 … L: the number of draws below the truth.

    Raises:
        ValueError: shapes do not fit together, or values are not finite.
    """
    truth, draws = np.asarray(truth), np.asarray(draws)
    fits = truth.ndim in (1, 2) and draws.ndim == truth.ndim + 1 and min(draws.shape, default=0)
    if not fits or (draws.shape[0], *draws.shape[2:]) != truth.shape:
        raise ValueError(
            f"truth has shape {truth.shape} and draws {draws.shape}; need [N, D] and [N, L, D]"
        )
    if not (np.isfinite(truth).all() and np.isfinite(draws).all()):
        raise ValueError("truth or draws hold NaN or infinity; look for a diverged chain")
    return np.sum(draws < truth[:, None], axis=1)


def uniformity_test(ranks: Any, num_draws: int, *, num_bins: int = 20) -> dict[str, Any]:
    """Chi-squared test, for each dimension, that ranks are uniform.

    Args:
        ranks: `int[N, D]` or `int[N]`, from `calibration_ranks`.
        num_draws: L, the number of draws; ranks take L + 1 values.
        num_bins: maximal number of bins; the largest number that divides L + 1 and leaves five
            expected ranks per bin is used, so choose L + 1 as a multiple of 20.

    Returns:
        "p_values", `[D]`; "smallest_p_value", times D and at most 1 (Bonferroni): below .01 the
        posterior is not calibrated; "histogram", `int[num_bins, D]`; "expected", ranks per bin.

    Raises:
        ValueError: ranks out of range, or too few for two bins.
    """
    ranks = _checked_ranks(ranks, num_draws)
    num_examples, num_dimensions = ranks.shape
    most = min(num_bins, num_examples // _FEWEST_IN_A_BIN)
    bins = next((b for b in range(most, 1, -1) if (num_draws + 1) % b == 0), 0)
    if not bins:
        raise ValueError(
            f"{num_examples} ranks of {num_draws} draws cannot be split into equal bins of "
            f"{_FEWEST_IN_A_BIN} or more; use more examples, and 19, 39 or 99 draws"
        )
    placed = ranks * bins // (num_draws + 1)
    histogram = np.stack([np.bincount(column, minlength=bins) for column in placed.T], axis=1)
    expected = num_examples / bins
    statistic = np.sum((histogram - expected) ** 2 / expected, axis=0)
    p_values = chi2.sf(statistic, bins - 1)
    return {
        "p_values": p_values,
        "smallest_p_value": float(min(1.0, p_values.min() * num_dimensions)),
        "histogram": histogram,
        "expected": expected,
    }


def interval_coverage(
    ranks: Any, num_draws: int, levels: Sequence[float] = LEVELS
) -> dict[float, float]:
    """How often central credible intervals contain the truth.

    Args:
        ranks: `int[N, D]` or `int[N]`, from `calibration_ranks` of the latents.
        num_draws: L.
        levels: probabilities of the intervals under the posterior, in (0, 1).

    Returns:
        Level to the share of truths inside, over examples and dimensions: equal to the level, to
        within 1/L, if the posterior is calibrated; below it if the posterior is too narrow.

    Raises:
        ValueError: ranks or levels out of range.
    """
    ranks = _checked_ranks(ranks, num_draws)
    from_centre = np.abs(2 * (ranks + 0.5) / (num_draws + 1) - 1)
    return {level: float(np.mean(from_centre <= level)) for level in _checked_levels(levels)}


def density_coverage(
    true_log_density: Any, draws_log_density: Any, levels: Sequence[float] = LEVELS
) -> dict[float, float]:
    """Expected coverage of highest-density regions (Hermans et al. 2022, arXiv:2110.06581).

    The regions are over all dimensions jointly: the truth is inside the region of level α if fewer
    than a share α of the draws have a higher density. log p(x, z) can replace the posterior's
    density, since log p(x) is the same for the truth and the draws.

    Args:
        true_log_density: `[N]`, at the latents that the data were generated from.
        draws_log_density: `[N, L]`, at the draws.
        levels: probabilities of the regions under the posterior, in (0, 1).

    Returns:
        Level to the share of truths inside, as in `interval_coverage`.

    Raises:
        ValueError: as `calibration_ranks`, or levels out of range.
    """
    ranks = calibration_ranks(np.asarray(true_log_density), draws_log_density)
    num_draws = np.shape(draws_log_density)[1]
    above = (num_draws - ranks + 0.5) / (num_draws + 1)
    return {level: float(np.mean(above <= level)) for level in _checked_levels(levels)}


def _checked_ranks(ranks: Any, num_draws: int) -> np.ndarray:
    """The ranks, checked, as `int[N, D]`."""
    ranks = np.asarray(ranks)
    if ranks.ndim not in (1, 2) or not ranks.size or ranks.dtype.kind not in "iu":
        raise ValueError(f"ranks are {ranks.dtype}{list(ranks.shape)}; pass int[N] or int[N, D]")
    if ranks.min() < 0 or ranks.max() > num_draws:
        raise ValueError(f"ranks span {ranks.min()}..{ranks.max()}; must lie in 0..{num_draws}")
    return ranks.reshape(len(ranks), -1)


def _checked_levels(levels: Sequence[float]) -> Sequence[float]:
    if not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels are {list(levels)}; they must lie between 0 and 1")
    return levels
