"""Bounds of the multimodal VAE family: docstrings state them, functions return the negative, `[B]`.

All train the inference network and the generator; `docs/methods.md` gives the aggregator of each.
With an energy the prior is ∝ exp(−E_γ(z)) p_0(z); log Z, constant for both networks, is left out.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmebm_jax import batching
from mmebm_jax.distributions import aggregators, families, mixture_of_experts
from mmebm_jax.distributions.aggregators import Aggregation
from mmebm_jax.distributions.families import log_density
from mmebm_jax.method.inference import Encoding
from mmebm_jax.modalities.modality import Modality, joint_log_likelihood
from mmebm_jax.typing import Batch, Diagonal, EnergyFn, Latents, Mask

ESTIMATORS = ("elbo", "stratum", "iwae", "dreg")

DecodeNamed = Callable[..., dict[str, jax.Array]]
"""(latents, names or None) → outputs of those modalities."""


class Bound(NamedTuple):
    """The choice of bound, and the constants of all bounds.

    To add a bound, add an entry to `OBJECTIVES`. Its constants are fields here, which the builders
    fill from the fields of the same names in `config.elbo`.
    """

    objective: str = "mmvae"
    beta: float = 1.0  # weight of the divergence, ≥ 0
    num_samples: int = 1  # draws per stratum in "mmvae"
    estimator: str = "elbo"  # one of `ESTIMATORS`, which `mmvae` describes
    total_correlation: float = 0.5  # α of "mvtcae", in [0, 1]
    expert_weight: float = 0.1  # α of "jmvae"
    entropy_weight: float = 0.0  # of the learned weights of subsets, of "code"
    shared_factor: float = 1.0  # on β for z, beside private latents, of "mmvae"
    hidden_share: float = 1.0  # share of private latents drawn from r_n in "mmvae"
    hide_tokens: bool = False  # whether the hidden share of text and categories is 1


class Setting(NamedTuple):
    """Settings that all bounds of a model share."""

    modalities: tuple[Modality, ...]
    decode: DecodeNamed
    prior_family: str = "gaussian"
    prior_energy: EnergyFn | None = None  # −log p(z) relative to the standard prior, z `[B, Z]`
    aggregation: Aggregation = Aggregation()  # of the experts; "code" regroups them by subset


class Problem(NamedTuple):
    """A batch, its encoding by the inference network, and the bound to compute."""

    encoding: Encoding
    batch: Batch
    bound: Bound
    setting: Setting
    mask: Mask | None

    def log_likelihood(
        self, outputs: Batch, modalities: tuple[Modality, ...] | None = None
    ) -> jax.Array:
        """Return Σ_m log p(x_m | outputs `[..., B, *shape]`) over observed m, `[..., B]`."""
        return joint_log_likelihood(
            modalities or self.setting.modalities, outputs, self.batch, self.mask
        )


def negative_bound(
    key: jax.Array,
    encoding: Encoding,
    batch: Batch,
    bound: Bound,
    setting: Setting,
    mask: Mask | None = None,
) -> jax.Array:
    """Compute the negative of the chosen bound, `[B]` nats.

    Args:
      key: PRNG key.
      encoding: encoding of the batch under the same mask.
      batch: data, name → `[B, *shape]`; missing values have no influence, but must be finite.
      bound: name of an entry of `OBJECTIVES`, and its constants.
      setting: networks and prior.
      mask: which examples have which modality.
    """
    return OBJECTIVES[bound.objective](key, Problem(encoding, batch, bound, setting, mask))


def mmvae(key: jax.Array, problem: Problem, strata: jax.Array | None = None) -> jax.Array:
    """Σ_k π_k E_{z ~ q_k} [Σ_n log p(x_n | z, w_n) + β (log p(z, w_k) − log q(z, w_k | x))].

    Shi et al. 2019 (arXiv:1911.03393), equations 3 to 5; with private latents, Palumbo et al. 2023
    (MMVAE+, equation 4): the stratum of modality m draws w_m from q_m and every other modality's
    w_n from r_n, with mean 0 and learned scale, so only z carries information across modalities.
    With `hidden_share` below 1, only that share of the w_n, chosen at random, is hidden in this
    way; the others come from their own q_n, so private latents learn from every example, not one
    in M. `hide_tokens` always hides the w_n of text and categories: they hold the content of a
    sentence, which has to come from z when a picture is given. A `shared_factor` above 1 on z's
    part of the divergence keeps information that w_m can hold out of z.

    The estimator "elbo" is the mean over `num_samples` draws from every stratum k. "stratum" picks
    one k with probability π_k for each draw and example: it decodes one stratum instead of all and
    has the same expectation and expected gradient. "iwae" is the importance-weighted bound with
    `num_samples` draws per stratum, and "dreg" is the same bound with a different gradient.

    Args:
      key: PRNG key.
      problem: see `Problem`.
      strata: for "stratum", the k to use instead of random ones, `[num_samples, 1, B]`.
    """
    draws, estimator = _draw_strata(key, problem, strata), problem.bound.estimator
    if estimator == "dreg":
        values = _doubly_reparametrised(problem, draws)
    else:
        values = _log_weights(problem, problem.encoding, draws)
        if estimator == "stratum":
            return -values.mean(axis=(0, 1))
        if estimator == "iwae":
            values = jax.nn.logsumexp(values, axis=0) - jnp.log(problem.bound.num_samples)
        else:
            values = values.mean(axis=0)
    return -jnp.sum(jnp.exp(problem.encoding.posterior.log_weight) * values, axis=0)


def hidden_share(bound: Bound, modality: Modality) -> float:
    """Return how often a modality's private latents are hidden from other strata, in [0, 1].

    With `hide_tokens` it is 1 for text and categories; this rule is the library's own.
    """
    return 1.0 if bound.hide_tokens and modality.is_of_tokens else bound.hidden_share


class _Draws(NamedTuple):
    """S draws from each of J strata: from all K of them, or from one per example."""

    z: jax.Array  # shape=[S, J, B, Z]
    own: dict[str, jax.Array]  # name → w_m ~ q_m, shape=[S, B, W]
    noise: dict[str, jax.Array]  # name → noise of r_m at scale 1, shape=[S, J, B, W]
    shown: dict[str, jax.Array]  # name → whether w_m is from q_m, dtype=bool, shape=[S, J, B]


def _draw_strata(key: jax.Array, problem: Problem, strata: jax.Array | None) -> _Draws:
    encoding, count = problem.encoding, problem.bound.num_samples
    family, log_weight = encoding.posterior.family, encoding.posterior.log_weight
    z_key, own_key, noise_key, strata_key, shown_key = jax.random.split(key, 5)
    takes_one = problem.bound.estimator == "stratum"
    if not takes_one:
        strata = jnp.arange(len(log_weight))[None, :, None]
    elif strata is None:
        shape = (count, 1, log_weight.shape[1])
        strata = jax.random.categorical(strata_key, log_weight, axis=0, shape=shape)

    def taken(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, strata[..., None], axis=1) if takes_one else values

    own, noise, shown = {}, {}, {}
    for index, (name, expert) in enumerate(encoding.private.items()):
        repeated = jax.tree.map(lambda x: jnp.tile(x, [count, 1, 1]), expert)
        own[name] = families.sample(jax.random.fold_in(own_key, index), repeated, family)
        size = expert.location.shape[-1]
        noise_of_all = families.standard_noise(
            jax.random.fold_in(noise_key, index), family, (count, *log_weight.shape, size)
        )
        noise[name] = taken(noise_of_all)
        is_source = jnp.broadcast_to(strata == index, noise[name].shape[:-1])
        share = hidden_share(problem.bound, problem.setting.modalities[index])
        hidden = jax.random.bernoulli(jax.random.fold_in(shown_key, index), share, is_source.shape)
        shown[name] = is_source | (~hidden & encoding.experts.observed[None, None, index])
    z = taken(mixture_of_experts.stratified_sample(z_key, encoding.posterior, count))
    return _Draws(z, own, noise, shown)


def _log_weights(problem: Problem, encoding: Encoding, draws: _Draws) -> jax.Array:
    """Return log p(x, u) − log q(u | x), `[S, J, B]`, with β on all but the likelihood."""
    setting, family, private = problem.setting, encoding.posterior.family, {}
    ratio = _log_prior(setting, draws.z) - mixture_of_experts.log_prob(encoding.posterior, draws.z)
    ratio = problem.bound.shared_factor * ratio
    for name, values in draws.own.items():
        other = encoding.auxiliary_scale[name][None, None, None] * draws.noise[name]
        private[name] = jnp.where(draws.shown[name][..., None], values[:, None], other)
        own = log_density(setting.prior_family, values).sum(axis=-1)
        expert = (parameter[None] for parameter in encoding.private[name])
        own = own - log_density(family, values, *expert).sum(axis=-1)
        ratio = ratio + jnp.where(draws.shown[name], own[:, None], 0.0)
    outputs = _decode_flat(Latents(draws.z, private), setting.decode)
    return problem.log_likelihood(outputs) + problem.bound.beta * ratio


def _doubly_reparametrised(problem: Problem, draws: _Draws) -> jax.Array:
    """The K-sample bound with the DReG gradient (Tucker et al. 2019, arXiv:1810.04152, eq. 8).

    The parameters of the density q get no gradient, and each draw's path derivative is multiplied
    by its normalised weight once more; as the weights contain β times the log-density, the factor
    is (1 − β) + β times the weight. For one stratum or one draw, the expected gradient is that of
    the K-sample bound; for several strata, scored under the whole mixture, it is close but biased.
    """
    fixed = jax.lax.stop_gradient(problem.encoding)
    # r is drawn from but never scored, so its scales keep their gradient.
    fixed = fixed._replace(auxiliary_scale=problem.encoding.auxiliary_scale)
    plain = jax.lax.stop_gradient(_log_weights(problem, problem.encoding, draws))
    share = jax.nn.softmax(plain, axis=0)
    path = 1.0 - problem.bound.beta + problem.bound.beta * share

    def scaled(values: jax.Array, factor: jax.Array) -> jax.Array:
        held = jax.lax.stop_gradient(values)
        return held + factor[..., None] * (values - held)

    own = {name: scaled(w, path[:, index]) for index, (name, w) in enumerate(draws.own.items())}
    scaled_draws = draws._replace(z=scaled(draws.z, path), own=own)
    values = jnp.sum(share * _log_weights(problem, fixed, scaled_draws), axis=0)
    bound = jax.nn.logsumexp(plain, axis=0) - jnp.log(len(plain))
    return bound + values - jax.lax.stop_gradient(values)


def joint(key: jax.Array, problem: Problem) -> jax.Array:
    """E_{z ~ q} [Σ_n log p(x_n | z)] − β Σ_k π_k KL(q_k ‖ p): MoPoE's bound for a mixture.

    Sutter et al. 2021 (arXiv:2105.02470), equation 7.
    """
    rate, reconstruction = _joint_terms(key, problem)
    return problem.bound.beta * rate - reconstruction


def mvae(key: jax.Array, problem: Problem) -> jax.Array:
    """The joint bound plus the bound of each observed modality alone.

    Wu & Goodman 2018 (arXiv:1802.05335), equation 4, without its additional random subsets.
    """
    joint_key, alone_key = jax.random.split(key)
    experts, setting = problem.encoding.experts, problem.setting
    alone_member = jnp.eye(len(experts.observed), dtype=bool)[:, :, None]
    alone_member = jnp.broadcast_to(
        alone_member, (*alone_member.shape[:2], experts.observed.shape[1])
    )
    alone = aggregators.product(experts, alone_member, prior=alone_member.any(axis=1))
    z_alone = families.sample(alone_key, alone, "gaussian")
    total = joint(joint_key, problem)
    divergences = families.divergence_from_standard(alone) + _energy(setting, z_alone)
    for index, modality in enumerate(setting.modalities):
        outputs = setting.decode(Latents(z_alone[index], {}), (modality.name,))
        reconstruction = problem.log_likelihood(outputs, (modality,))
        loss = problem.bound.beta * divergences[index] - reconstruction
        total = total + jnp.where(experts.observed[index], loss, 0.0)
    return total


def mvtcae(key: jax.Array, problem: Problem) -> jax.Array:
    """(M − α)/M E_q [log p(x | z)] − β [(1 − α) KL(q ‖ p) + (α/M) Σ_m KL(q ‖ q_m)], M observed.

    Hwang et al. 2021 (Multi-view representation learning via total correlation objective), eq. 9.
    """
    encoding, bound = problem.encoding, problem.bound
    experts, alpha = encoding.experts, bound.total_correlation
    joint_rate, reconstruction = _joint_terms(key, problem)
    each, count = _divergence_from_experts(encoding), experts.observed.sum(axis=0)
    rate = (1 - alpha) * joint_rate + alpha / count * each
    return bound.beta * rate - (count - alpha) / count * reconstruction


def jmvae(key: jax.Array, problem: Problem) -> jax.Array:
    """E_q [Σ_n log p(x_n | z)] − β KL(q ‖ p) − α Σ_m KL(q ‖ q_m) with a joint expert q.

    Suzuki et al. 2016 (JMVAE-kl, arXiv:1611.01891), equation 6.
    """
    rate, reconstruction = _joint_terms(key, problem)
    each = _divergence_from_experts(problem.encoding)
    return problem.bound.beta * rate + problem.bound.expert_weight * each - reconstruction


def code(key: jax.Array, problem: Problem) -> jax.Array:
    """Σ_S π_S [E_{q_S} log p(x | z) − β KL(q_S ‖ p)] + λ H(π) over the observed subsets.

    CoDE-VAE's bound: π is learned, and the entropy keeps every subset in use.
    """
    encoding, bound, setting = problem.encoding, problem.bound, problem.setting
    members, exists = aggregators.subset_members(encoding.experts)
    subset = aggregators.consensus(encoding.experts, members, setting.aggregation.correlation)
    z = families.sample(key, subset, "gaussian")
    outputs = _decode_flat(Latents(z[None], {}), setting.decode)
    reconstruction = problem.log_likelihood(outputs)[0]
    rate = families.divergence_from_standard(subset) + _energy(setting, z)
    log_weight = jax.nn.log_softmax(
        jnp.where(exists, encoding.subset_logit[:, None], -jnp.inf), axis=0
    )
    weight = jnp.exp(log_weight)
    entropy = -jnp.sum(weight * jnp.where(exists, log_weight, 0.0), axis=0)
    value = jnp.sum(jnp.where(exists, weight * (reconstruction - bound.beta * rate), 0.0), axis=0)
    return -value - bound.entropy_weight * entropy


OBJECTIVES: dict[str, Callable[[jax.Array, Problem], jax.Array]] = {
    "mmvae": mmvae,
    "joint": joint,
    "mvae": mvae,
    "mvtcae": mvtcae,
    "jmvae": jmvae,
    "code": code,
}


def _log_prior(setting: Setting, z: jax.Array) -> jax.Array:
    return log_density(setting.prior_family, z).sum(axis=-1) - _energy(setting, z)


def _energy(setting: Setting, z: jax.Array) -> jax.Array:
    if setting.prior_energy is None:
        return jnp.zeros(z.shape[:-1])
    return batching.flatly(setting.prior_energy, z, z.shape[:-1])


def _divergence_from_experts(encoding: Encoding) -> jax.Array:
    """Σ_m KL(q ‖ q_m) over the observed experts, for a posterior of one component, `[B]`."""
    experts, mixture = encoding.experts, encoding.posterior
    each = families.divergence(
        Diagonal(mixture.location, mixture.scale), Diagonal(experts.location, experts.scale)
    )
    return jnp.where(experts.observed, each, 0.0).sum(axis=0)


def _joint_terms(key: jax.Array, problem: Problem) -> tuple[jax.Array, jax.Array]:
    """Return the components' mean divergence from the prior, and the log-likelihood at one draw."""
    mixture, setting = problem.encoding.posterior, problem.setting
    z = mixture_of_experts.sample(key, mixture)
    reconstruction = problem.log_likelihood(setting.decode(Latents(z, {})))
    each = families.divergence_from_standard(Diagonal(mixture.location, mixture.scale))
    weight = jnp.exp(mixture.log_weight)
    mean = jnp.sum(jnp.where(weight > 0, weight * each, 0.0), axis=0)
    return mean + _energy(setting, z), reconstruction


def _decode_flat(latents: Latents, decode: DecodeNamed) -> dict[str, jax.Array]:
    """Decode latents with leading axes `[S, K, B]` as one batch."""
    return batching.flatly(decode, latents, latents.shared.shape[:-1])
