"""Every bound against NumPy loops, at the latents that the bound itself decoded."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import chisquare, kstest, laplace, multivariate_normal, norm

from mmebm_jax.distributions import aggregators
from mmebm_jax.distributions.aggregators import Aggregation, Experts
from mmebm_jax.distributions.families import Diagonal
from mmebm_jax.method import bounds as elbo
from mmebm_jax.method.bounds import OBJECTIVES, Bound, Setting
from mmebm_jax.method.inference import Encoding
from mmebm_jax.modalities.modality import Modality
from tests.references import consensus_by_inverses

NAMES = ("picture", "text")
MODALITIES = (
    Modality("picture", "image", (4, 4, 1), "gaussian", scale=0.5),
    Modality("text", "text", (2, 3), "categorical", weight=2.0),
)
NUM_SHARED, NUM_PRIVATE = 2, 3
WEIGHTS = {  # of the linear decoder; rows are shared latents, then private ones
    "picture": np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32),
    "text": np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32),
}
OBSERVED = np.array([[True, True, False], [True, False, True]])  # shape=[M, B]
MASK = {name: jnp.array(row) for name, row in zip(NAMES, OBSERVED, strict=True)}
EVERYTHING = {name: jnp.ones(3, bool) for name in NAMES}
LOGITS = np.array([0.3, -0.5, 0.8])
CORRELATION = 0.4
DENSITIES = {"gaussian": norm, "laplace": laplace}
fast_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# Every bound with its published aggregator, and with constants other than 0 and 1.
BOUNDS = {
    "mopoe": ("mixture_of_products", Bound("joint", beta=0.3)),
    "helvae": ("hellinger", Bound("joint", beta=2.5)),
    "mvae": ("product_with_prior", Bound("mvae", beta=0.3)),
    "mvtcae": ("product", Bound("mvtcae", beta=0.3, total_correlation=0.7)),
    "mwbvae": ("mixture_of_wasserstein", Bound("joint", beta=0.3)),
    "mohelvae": ("mixture_of_hellinger", Bound("joint", beta=0.3)),
    "jmvae": ("joint_expert", Bound("jmvae", beta=0.3, expert_weight=0.7)),
    "code": ("consensus", Bound("code", beta=0.3, entropy_weight=1.7)),
}
MIXTURE = {
    "mmvae": ("mixture", Bound(beta=0.3, num_samples=2)),
    "holder": ("holder", Bound(beta=0.3, num_samples=2)),
}
ALL = BOUNDS | MIXTURE


def energy(z):
    return 0.2 * (z**2).sum(-1) + 0.1 * z[..., 0]


def decode(latents, names=NAMES):
    outputs = {}
    for modality in MODALITIES:
        if modality.name in names:
            z, w = latents.shared, latents.private.get(modality.name)
            inputs = z if w is None else jnp.concatenate([z, w], axis=-1)
            values = inputs @ WEIGHTS[modality.name][: inputs.shape[-1]]
            outputs[modality.name] = values.reshape(-1, *modality.shape)
    return outputs


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(2)
    return {
        "picture": rng.uniform(-1, 1, size=(3, 4, 4, 1)).astype(np.float32),
        "text": np.eye(3, dtype=np.float32)[rng.integers(3, size=(3, 2))],
    }


def make_diagonal(rng, size, num_examples=3):
    location = rng.normal(size=(num_examples, size))
    scale = rng.uniform(0.3, 1.5, size=(num_examples, size))
    return Diagonal(location.astype(np.float32), scale.astype(np.float32))


def aggregation_of(aggregator):
    return Aggregation(aggregator, CORRELATION)


def encode(experts, aggregator, private=None, auxiliary_scale=None, family="gaussian"):
    posterior = aggregators.aggregate(experts, aggregation_of(aggregator), family=family)
    logits = jnp.asarray(LOGITS, jnp.float32)
    return Encoding(experts, posterior, private or {}, auxiliary_scale or {}, logits)


fast_encode = fast_jit(encode, static_argnames=("aggregator", "family"))


def make_encoding(aggregator, mask=MASK, *, with_private=False, family="gaussian", num_examples=3):
    rng = np.random.default_rng(3)
    experts = {name: make_diagonal(rng, NUM_SHARED, num_examples) for name in NAMES}
    private, auxiliary_scale = {}, {}
    if with_private:
        private = {name: make_diagonal(rng, NUM_PRIVATE, num_examples) for name in NAMES}
        auxiliary_scale = {
            name: rng.uniform(0.5, 2, NUM_PRIVATE).astype(np.float32) for name in NAMES
        }
    joint = Diagonal(*(x[None] for x in make_diagonal(rng, NUM_SHARED, num_examples)))
    stacked = aggregators.stack(experts, mask)._replace(joint=joint)
    encoding = fast_encode(stacked, aggregator, private, auxiliary_scale, family)
    return jax.device_get(encoding)


def as_drawn(values, *others):
    """Undo the flattening of a decoded batch, examples first, to `[*others, B, ...]`."""
    values = np.asarray(values)
    parts = values.reshape(len(values) // math.prod(others), *others, *values.shape[1:])
    return np.moveaxis(parts, 0, len(others))


def value_and_latents(
    key, encoding, batch, mask, bound, prior_energy=energy, prior_family="gaussian"
):
    """The negative bound and every `Latents` it decoded, in order."""
    decoded = []

    def recording(latents, names=NAMES):
        decoded.append(latents)
        return decode(latents, names)

    setting = Setting(
        MODALITIES, recording, prior_family, prior_energy, aggregation_of("consensus")
    )
    return elbo.negative_bound(key, encoding, batch, bound, setting, mask), decoded


fast_value_and_latents = fast_jit(
    value_and_latents, static_argnames=("bound", "prior_energy", "prior_family")
)


def evaluate(*arguments, **options):
    return jax.device_get(fast_value_and_latents(*arguments, **options))


def log_likelihood(name, z, w, batch, example):
    """log p(x_m | z, w) for one latent and one example, in plain NumPy."""
    inputs = np.concatenate([z, w])
    outputs = inputs @ WEIGHTS[name][: len(inputs)]
    target = batch[name][example]
    if name == "picture":
        return norm.logpdf(target.ravel(), outputs, 0.5).sum()
    return 2.0 * (target * log_softmax(outputs.reshape(2, 3), axis=-1)).sum()


def reconstruction(z, batch, example, seen=(0, 1)):
    return sum(log_likelihood(NAMES[m], z, [], batch, example) for m in seen)


# MMVAE and MMVAE+.

ESTIMATES = [
    Bound(),
    Bound(beta=0.3, num_samples=3),
    Bound(beta=0.3, num_samples=3, estimator="iwae"),
    Bound(beta=0.3, num_samples=3, estimator="dreg"),
    Bound(beta=0.3, num_samples=3, hidden_share=0.0, shared_factor=4.0),
]


@pytest.mark.parametrize(
    ("family", "with_private"), [("gaussian", False), ("laplace", True)], ids=["mmvae", "mmvae+"]
)
@pytest.mark.parametrize(
    "bound", ESTIMATES, ids=lambda b: f"{b.estimator}{b.num_samples}-{b.hidden_share:.0f}"
)
def test_mmvae_against_loops(batch, bound, family, with_private):
    density = DENSITIES[family]
    encoding = make_encoding("mixture", with_private=with_private, family=family)
    got, (latents, *_) = evaluate(
        jax.random.key(4), encoding, batch, MASK, bound, prior_family=family
    )
    z = as_drawn(latents.shared, bound.num_samples, 2)
    w = {name: as_drawn(v, bound.num_samples, 2) for name, v in latents.private.items()}
    assert set(w) == (set(NAMES) if with_private else set())

    def log_weight(s, k, b):
        seen, here = np.flatnonzero(OBSERVED[:, b]), z[s, k, b]
        location, scale = (x[seen, b] for x in encoding.experts[:2])
        log_q = logsumexp(density.logpdf(here, location, scale).sum(-1)) - np.log(len(seen))
        ratio = bound.shared_factor * (density.logpdf(here).sum() - energy(here) - log_q)
        for n in (seen if bound.hidden_share == 0 else [k]) if with_private else []:
            own, q = w[NAMES[n]][s, k, b], encoding.private[NAMES[n]]
            log_q_own = density.logpdf(own, q.location[b], q.scale[b]).sum()
            ratio += density.logpdf(own).sum() - log_q_own
        private = [w[name][s, k, b] if with_private else [] for name in NAMES]
        likelihood = sum(log_likelihood(NAMES[n], here, private[n], batch, b) for n in seen)
        return likelihood + bound.beta * ratio

    expected = []
    for b in range(3):
        strata = []
        for k in np.flatnonzero(OBSERVED[:, b]):
            values = [log_weight(s, k, b) for s in range(bound.num_samples)]
            bounded = logsumexp(values) - np.log(len(values))
            strata.append(np.mean(values) if bound.estimator == "elbo" else bounded)
        expected.append(-np.mean(strata))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("family", DENSITIES)
def test_mmvae_plus_draws_its_own_and_foreign_private_latents(family):
    """In stratum m: z from q_m, w_m from q_m, and every other w_n from r_n, all independent."""
    count, names, rng = 1000, "abc", np.random.default_rng(5)
    modalities = tuple(Modality(name, "image", (4, 4, 1), "gaussian") for name in names)
    batch = {name: jnp.zeros([count, 4, 4, 1]) for name in names}
    private = {name: make_diagonal(rng, NUM_PRIVATE, count) for name in names}
    scales = {name: rng.uniform(0.5, 2, NUM_PRIVATE).astype(np.float32) for name in names}
    experts = aggregators.stack({name: make_diagonal(rng, NUM_SHARED, count) for name in names})

    @fast_jit
    def draws(key):
        decoded = []

        def record(latents):
            decoded.append(latents)
            return {name: jnp.zeros([len(latents.shared), 4, 4, 1]) for name in names}

        encoding = encode(experts, "mixture", private, scales, family)
        elbo.negative_bound(key, encoding, batch, Bound(num_samples=2), Setting(modalities, record))
        return decoded[0]

    drawn, experts, private = jax.device_get((draws(jax.random.key(5)), experts, private))
    z, *own = (as_drawn(values, 2, 3) for values in jax.tree.leaves(drawn))
    noise = [(z - experts.location) / experts.scale]
    for n, (values, q, scale) in enumerate(
        zip(own, private.values(), scales.values(), strict=True)
    ):
        foreign = values / scale
        foreign[:, n] = (values[:, n] - q.location) / q.scale
        noise.append(foreign)
    columns = np.concatenate(noise, axis=-1).transpose(0, 1, 3, 2).reshape(-1, count)
    for column in columns:
        assert kstest(column, DENSITIES[family].cdf).pvalue > 1e-4
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert abs(correlations).max() < 5 / np.sqrt(count)


def test_the_hidden_share_of_foreign_private_latents_is_not_their_own(batch):
    """Otherwise a foreign latent is the same draw that its own modality's stratum decodes."""
    num_samples, count, share = 500, 3, 0.3
    bound = Bound(num_samples=num_samples, hidden_share=share)
    encoding = make_encoding("mixture", with_private=True)
    _, (latents, *_) = evaluate(jax.random.key(4), encoding, batch, MASK, bound)
    for n, name in enumerate(NAMES):
        values = as_drawn(latents.private[name], num_samples, 2)
        is_own = (values[:, 1 - n] == values[:, n]).all(axis=-1)
        assert is_own.shape == (num_samples, count)
        seen = is_own[:, OBSERVED[n]].mean()
        assert abs(seen - (1 - share)) < 4 * 0.5 / np.sqrt(num_samples)
        # A missing modality has no latent of its own.
        assert not is_own[:, ~OBSERVED[n]].any()


def test_what_is_hidden_says_nothing_of_the_noise():
    """With one key for both, the latents shown would always lie above their mean."""
    encoding = make_encoding("mixture", with_private=True)
    problem = elbo.Problem(encoding, {}, Bound(hidden_share=0.5), Setting(MODALITIES, decode), None)
    keys = jax.random.split(jax.random.key(7), 400)
    draws = jax.jit(jax.vmap(lambda key: elbo._draw_strata(key, problem, None)))(keys)
    for index, name in enumerate(NAMES):
        noise = np.asarray(draws.own[name]).reshape(len(keys), -1)
        shown = np.asarray(draws.shown[name][:, 0, 1 - index, OBSERVED[index]], float)
        assert (shown.mean(axis=0) > 0.4).all()
        assert (shown.mean(axis=0) < 0.6).all()
        correlations = np.corrcoef(noise, shown, rowvar=False)[: noise.shape[1], noise.shape[1] :]
        assert abs(correlations).max() < 5 / np.sqrt(len(keys))


@pytest.mark.parametrize("hide_tokens", [False, True])
def test_private_latents_of_tokens_may_always_be_hidden(batch, hide_tokens):
    bound = Bound(num_samples=200, hidden_share=0.5, hide_tokens=hide_tokens)
    encoding = make_encoding("mixture", with_private=True)
    _, (latents, *_) = evaluate(jax.random.key(8), encoding, batch, MASK, bound)
    for n, modality in enumerate(MODALITIES):
        values = as_drawn(latents.private[modality.name], 200, 2)
        seen = (values[:, 1 - n] == values[:, n]).all(axis=-1)[:, OBSERVED[n]].mean()
        expected = 0.0 if hide_tokens and modality.kind == "text" else 0.5
        assert abs(seen - expected) < 0.15
    assert {modality.kind for modality in MODALITIES} == {"image", "text"}


@pytest.mark.parametrize("estimator", ["elbo", "dreg"])
def test_mmvae_plus_gradient_reach(batch, estimator):
    """Without the rate term, own targets move q_m(w | x_m) and foreign ones the scale of r_n."""
    bound = Bound(beta=0.0, num_samples=2, estimator=estimator)

    @fast_jit
    @jax.grad
    def gradient(changed, encoding, scored):
        setting = Setting(MODALITIES, decode)
        values = elbo.negative_bound(
            jax.random.key(6), encoding._replace(**changed), batch, bound, setting, scored
        )
        return values.sum()

    alone = [{name: np.full([3], name == one) for name in NAMES} for one in NAMES]
    for source, target in itertools.product(range(2), repeat=2):
        encoding = make_encoding("mixture", alone[source], with_private=True)
        changed = {"private": encoding.private, "auxiliary_scale": encoding.auxiliary_scale}
        got = jax.device_get(gradient(changed, encoding, alone[target]))
        for n, name in enumerate(NAMES):
            parts = *got["private"][name], got["auxiliary_scale"][name]
            expected = [n == source == target] * 2 + [n == target != source]
            assert [np.all(x != 0) for x in parts] == expected
            assert [np.any(x != 0) for x in parts] == expected


@pytest.mark.parametrize("num_samples", [1, 3])
def test_strata_average_to_the_whole_bound_and_its_gradient(batch, num_samples):
    """Σ_k π_k times the bound of stratum k, with the same noise: the expectation is unchanged."""
    bound = Bound(beta=0.3, num_samples=num_samples, estimator="stratum")
    encoding = make_encoding("mixture", with_private=True, family="laplace")

    @partial(fast_jit, static_argnames="bound")
    @partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def of(changed, factor, strata, bound):
        experts = encoding.experts._replace(location=changed["location"], scale=changed["scale"])
        replaced = encode(
            experts, "mixture", changed["private"], changed["auxiliary_scale"], "laplace"
        )
        setting = Setting(
            MODALITIES,
            lambda u: {name: factor * values for name, values in decode(u).items()},
            "laplace",
            energy,
        )
        problem = elbo.Problem(replaced, batch, bound, setting, MASK)
        values = elbo.mmvae(jax.random.key(14), problem, strata)
        if strata is None:
            return values.sum(), values
        weight = jnp.exp(replaced.posterior.log_weight)[strata[0, 0], jnp.arange(3)]
        return jnp.sum(weight * values), values

    arguments = (
        {
            "location": encoding.experts.location,
            "scale": encoding.experts.scale,
            "private": encoding.private,
            "auxiliary_scale": encoding.auxiliary_scale,
        },
        1.0,
    )
    (whole, _), whole_gradient = of(*arguments, None, bound._replace(estimator="elbo"))
    # If an example lacks modality k, stratum k has weight 0.
    strata = [jnp.full([num_samples, 1, 3], k) for k in range(2)]
    each = [of(*arguments, stratum, bound) for stratum in strata]
    np.testing.assert_allclose(sum(value for (value, _), _ in each), whole, rtol=1e-5)
    total = jax.tree.map(lambda *parts: sum(parts), *(gradient for _, gradient in each))
    for got, expected in zip(jax.tree.leaves(total), jax.tree.leaves(whole_gradient), strict=True):
        assert np.any(np.asarray(expected) != 0)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)

    # Without given strata it draws one of them, never an unobserved one.
    (_, drawn), _ = of(*arguments, None, bound)
    if num_samples == 1:
        by_stratum = np.stack([values for (_, values), _ in each])
        taken = np.isclose(drawn, by_stratum, rtol=1e-5)
        assert taken.sum(axis=0).tolist() == [1, 1, 1]
        assert OBSERVED[taken].all()


def test_strata_are_drawn_by_their_weight_for_each_example_and_draw():
    """z reveals its stratum when the experts are far apart."""
    count, num_samples = 2000, 2
    location = jnp.array([0.0, 100.0, 200.0])[:, None, None] * jnp.ones([3, count, 1])
    observed = jnp.array([True, True, False])[:, None] | (jnp.arange(count) % 2 == 0)[None]
    encoding = fast_encode(Experts(location, jnp.ones_like(location), observed), "mixture")
    setting = Setting(
        MODALITIES[:1], lambda u: {"picture": jnp.tile(u.shared[:, :, None, None], [1, 4, 4, 1])}
    )
    decoded = []

    def record(latents):
        decoded.append(latents.shared)
        return setting.decode(latents)

    bound = Bound(num_samples=num_samples, estimator="stratum")
    elbo.negative_bound(
        jax.random.key(15),
        encoding,
        {"picture": jnp.zeros([count, 4, 4, 1])},
        bound,
        setting._replace(decode=record),
    )
    assert len(decoded[0]) == num_samples * count
    strata = np.round(as_drawn(decoded[0], num_samples, 1)[:, 0, :, 0] / 100)
    for examples, weights in ((slice(0, None, 2), [1, 1, 1]), (slice(1, None, 2), [1, 1])):
        taken = strata[:, examples].ravel().astype(int)
        counts = np.bincount(taken, minlength=len(weights))
        assert chisquare(counts).pvalue > 1e-4
    assert abs(np.corrcoef(strata[:, ::2])[0, 1]) < 5 / np.sqrt(count / 2)


def test_mmvae_of_one_linear_modality_is_the_closed_form():
    """With one expert and a linear decoder, the bound's expectation needs no sampling."""
    count, mean, scale, slope = 40_000, 0.7, 0.6, 0.4
    experts = Experts(
        jnp.full([1, count, 1], mean), jnp.full([1, count, 1], scale), jnp.ones([1, count], bool)
    )
    setting = Setting(
        MODALITIES[:1],
        lambda latents: {
            "picture": jnp.tile(slope * latents.shared[:, :, None, None], [1, 4, 4, 1])
        },
    )
    batch = {"picture": jnp.full([count, 4, 4, 1], 0.2)}
    encoding = fast_encode(experts, "mixture")
    values = fast_jit(elbo.negative_bound, static_argnums=(3, 4))(
        jax.random.key(0), encoding, batch, Bound(beta=2.0), setting
    )
    squares = (0.2 - slope * mean) ** 2 + slope**2 * scale**2
    likelihood = 16 * (-squares / (2 * 0.25) - np.log(0.5) - np.log(2 * np.pi) / 2)
    divergence = (mean**2 + scale**2 - 1) / 2 - np.log(scale)
    error = 4 * float(values.std()) / np.sqrt(count)
    assert float(values.mean()) == pytest.approx(-likelihood + 2 * divergence, abs=error)
    assert error < 0.1


# The other bounds.


def divergence(mean, variance, other_mean=0.0, other_variance=1.0):
    """KL divergence between diagonal Gaussians, in NumPy."""
    squares = (variance + (mean - other_mean) ** 2) / other_variance
    return 0.5 * (squares - 1 + np.log(other_variance / variance)).sum()


def product_of(means, scales):
    precision = (scales**-2.0).sum(0)
    return (means * scales**-2.0).sum(0) / precision, 1 / precision


def with_standard(means, scales):
    row = np.zeros([1, means.shape[1]])
    return product_of(np.vstack([means, row]), np.vstack([scales, row + 1]))


def subsets_of(seen):
    """(index, members) of the observed subsets, in the order of the logits."""
    rows = list(itertools.product([False, True], repeat=2))[1:]
    groups = [(index, np.flatnonzero(row)) for index, row in enumerate(rows)]
    return [(index, members) for index, members in groups if set(members) <= set(seen)]


def experts_of(encoding, example):
    return (x[:, example].astype(float) for x in encoding.experts[:2])


def joint_loop(bound, encoding, batch, example, decoded, seen):
    z = decoded[0].shared[example]
    weight = np.exp(encoding.posterior.log_weight[:, example])
    parts = zip(encoding.posterior.location, encoding.posterior.scale, strict=True)
    each = [divergence(m[example], np.square(s[example])) for m, s in parts]
    rate = sum(w * kl for w, kl in zip(weight, each, strict=True) if w) + energy(z)
    return bound.beta * rate - reconstruction(z, batch, example, seen)


def mvae_loop(bound, encoding, batch, example, decoded, seen):
    total = joint_loop(bound, encoding, batch, example, decoded, seen)
    means, scales = experts_of(encoding, example)
    for m in seen:
        z = decoded[1 + m].shared[example]
        rate = divergence(*with_standard(means[[m]], scales[[m]])) + energy(z)
        total += bound.beta * rate - reconstruction(z, batch, example, [m])
    return total


def mvtcae_loop(bound, encoding, batch, example, decoded, seen):
    z, alpha = decoded[0].shared[example], bound.total_correlation
    means, scales = experts_of(encoding, example)
    joint = product_of(means[seen], scales[seen])
    conditional = sum(divergence(*joint, means[m], scales[m] ** 2) for m in seen)
    rate = (1 - alpha) * (divergence(*joint) + energy(z)) + alpha / len(seen) * conditional
    share = (len(seen) - alpha) / len(seen)
    return bound.beta * rate - share * reconstruction(z, batch, example, seen)


def jmvae_loop(bound, encoding, batch, example, decoded, seen):
    means, scales = experts_of(encoding, example)
    if len(seen) == 2:
        joint = [x[0, example].astype(float) for x in encoding.experts.joint]
        joint[1] = joint[1] ** 2
    else:
        joint = product_of(means[seen], scales[seen])
    total = joint_loop(bound, encoding, batch, example, decoded, seen)
    each = sum(divergence(*joint, means[m], scales[m] ** 2) for m in seen)
    return total + bound.expert_weight * each


def code_values(bound, encoding, batch, example, decoded, seen):
    """The index and bound of each observed subset."""
    z = as_drawn(decoded[0].shared, 3)[:, example]
    means, scales = experts_of(encoding, example)
    values = {}
    for index, members in subsets_of(seen):
        rate = divergence(
            *consensus_by_inverses(means[members], scales[members], CORRELATION)
        ) + energy(z[index])
        likelihood = reconstruction(z[index], batch, example, seen)
        values[index] = likelihood - bound.beta * rate
    return list(values), np.array(list(values.values()))


def code_loop(*arguments):
    index, values = code_values(*arguments)
    weight = softmax(LOGITS[index])
    entropy = -(weight * np.log(weight)).sum()
    return -(weight * values).sum() - arguments[0].entropy_weight * entropy


LOOPS = {
    "joint": joint_loop,
    "mvae": mvae_loop,
    "mvtcae": mvtcae_loop,
    "jmvae": jmvae_loop,
    "code": code_loop,
}


def test_every_objective_is_tested():
    assert {bound.objective for _, bound in ALL.values()} == set(OBJECTIVES)


@pytest.mark.parametrize("name", BOUNDS)
def test_bound_against_loops(batch, name):
    aggregator, bound = BOUNDS[name]
    encoding = make_encoding(aggregator)
    got, decoded = evaluate(jax.random.key(7), encoding, batch, MASK, bound)
    expected = [
        LOOPS[bound.objective](
            bound, encoding, batch, b, decoded, list(np.flatnonzero(OBSERVED[:, b]))
        )
        for b in range(3)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("name", BOUNDS)
def test_bound_draws_from_its_posteriors(batch, name):
    """Decoded latents, mapped by the CDFs of their expected distributions, are uniform."""
    count = 1000
    aggregator, bound = BOUNDS[name]
    everything = {name: jnp.ones(count, bool) for name in NAMES}
    encoding = make_encoding(aggregator, everything, num_examples=count)
    many = {name: np.repeat(values[:1], count, axis=0) for name, values in batch.items()}
    _, decoded = evaluate(jax.random.key(8), encoding, many, everything, bound)
    means, scales = encoding.experts[:2]
    if name == "code":
        drawn = as_drawn(decoded[0].shared, 3)
        moments = [
            np.stack(
                [
                    consensus_by_inverses(means[group, b], scales[group, b], CORRELATION)
                    for b in range(count)
                ],
                1,
            )
            for _, group in subsets_of([0, 1])
        ]
    else:
        drawn = [latents.shared for latents in decoded]
        moments = [(encoding.posterior.location, np.square(encoding.posterior.scale))]
        if name == "mvae":
            precision = 1 + scales**-2
            moments += [*zip(means * scales**-2 / precision, 1 / precision, strict=True)]
    assert len(drawn) == len(moments)
    levels = []
    for z, (mean, variance) in zip(drawn, moments, strict=True):
        each = np.reshape(norm.cdf(z, mean, np.sqrt(variance)), (-1, count, NUM_SHARED))
        levels += list(each.mean(0).T)  # the components of a mixture are equally likely
    for level in levels:
        assert kstest(level, "uniform").pvalue > 1e-4
    if len(drawn) > 1:
        assert abs(np.corrcoef(levels) - np.eye(len(levels))).max() < 5 / np.sqrt(count)


def test_code_learns_its_weights(batch):
    """The gradient for the logits is a softmax's, and equal weights have entropy log S."""
    aggregator, bound = BOUNDS["code"]
    encoding = make_encoding(aggregator)

    @fast_jit
    @jax.grad
    def gradient(logit):
        values, _ = value_and_latents(
            jax.random.key(7), encoding._replace(subset_logit=logit), batch, MASK, bound
        )
        return values.sum()

    _, decoded = evaluate(jax.random.key(7), encoding, batch, MASK, bound)
    expected = np.zeros(3)
    for b in range(3):
        seen = list(np.flatnonzero(OBSERVED[:, b]))
        index, values = code_values(bound, encoding, batch, b, decoded, seen)
        weight = softmax(LOGITS[index])
        values = values - bound.entropy_weight * np.log(weight)
        expected[index] -= weight * (values - weight @ values)
    np.testing.assert_allclose(gradient(encoding.subset_logit), expected, rtol=1e-3)

    equal = encoding._replace(subset_logit=jnp.zeros(3))
    with_entropy, without = (
        evaluate(jax.random.key(7), equal, batch, MASK, bound._replace(entropy_weight=weight))[0]
        for weight in (10.0, 0.0)
    )
    np.testing.assert_allclose(without - with_entropy, 10 * np.log([3, 1, 1]), atol=1e-4)


# Properties of every bound.


@pytest.mark.parametrize("name", ALL)
def test_without_mask_and_energy(batch, name):
    """No mask equals a mask of ones, and no energy equals an energy of zero."""
    aggregator, bound = ALL[name]
    encoding = make_encoding(aggregator, None)
    bare, _ = evaluate(jax.random.key(0), encoding, batch, None, bound, None)
    zero, _ = evaluate(
        jax.random.key(0), encoding, batch, EVERYTHING, bound, lambda z: jnp.zeros(len(z))
    )
    np.testing.assert_allclose(bare, zero, rtol=1e-5)


@pytest.mark.parametrize("name", [*ALL, "mmvae+", "dreg"])
def test_what_is_missing_moves_nothing_and_the_rest_moves(batch, name):
    """Gradients for experts, private latents and generator; exactly zero for missing modalities."""
    aggregator, bound = ALL.get(name, MIXTURE["mmvae"])
    if name == "dreg":
        bound = bound._replace(estimator="dreg")
    with_private = name in ("mmvae+", "dreg")
    encoding = make_encoding(aggregator, with_private=with_private)

    @fast_jit
    def values_and_gradient(location, scale, private, batch):
        def loss(location, scale, private, factor):
            changed = encode(
                encoding.experts._replace(location=location, scale=scale),
                aggregator,
                private,
                encoding.auxiliary_scale,
            )
            setting = Setting(
                MODALITIES,
                lambda u, names=NAMES: {n: factor * v for n, v in decode(u, names).items()},
                prior_energy=energy,
                aggregation=aggregation_of("consensus"),
            )
            values = elbo.negative_bound(jax.random.key(9), changed, batch, bound, setting, MASK)
            return values.sum(), values

        return jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(location, scale, private, 1.0)

    def disturb(values, observed, by):
        return jnp.where(observed[..., None], values, values + by)

    observed = jnp.array(OBSERVED)
    arguments = (*encoding.experts[:2], encoding.private, batch)
    disturbed = (
        *(disturb(x, observed, 20) for x in encoding.experts[:2]),
        {n: Diagonal(*(disturb(x, MASK[n], 20) for x in d)) for n, d in encoding.private.items()},
        {n: jnp.where(MASK[n].reshape(-1, *[1] * (x.ndim - 1)), x, 9) for n, x in batch.items()},
    )
    gradient, values = values_and_gradient(*arguments)
    gradient_disturbed, values_disturbed = values_and_gradient(*disturbed)
    np.testing.assert_array_equal(values, values_disturbed)
    jax.tree.map(np.testing.assert_array_equal, gradient, gradient_disturbed)
    *by_experts, by_private, by_factor = gradient
    assert by_factor != 0
    rows = [(x[m], OBSERVED[m]) for x in by_experts for m in range(2)]
    rows += [(x, np.asarray(MASK[n])) for n, d in by_private.items() for x in d]
    for values, seen in rows:
        np.testing.assert_array_equal(np.asarray(values)[~seen], 0)
        assert (np.asarray(values)[seen] != 0).all()


# The K-sample bound of a linear-Gaussian model, where log p(x) is known.

SLOPES = np.random.default_rng(10).normal(size=(2, 16))
NOISES = (3.0, 4.0)
LINEAR = tuple(
    Modality(name, "image", (4, 4, 1), "gaussian", scale=noise)
    for name, noise in zip("ab", NOISES, strict=True)
)
PIXELS = np.random.default_rng(11).normal(size=(2, 16))
PRECISION = 1 + sum((a**2).sum() / s**2 for a, s in zip(SLOPES, NOISES, strict=True))
CENTRE = (
    sum(a @ x / s**2 for a, x, s in zip(SLOPES, PIXELS, NOISES, strict=True)) / PRECISION
)  # mean of p(z | x), whose variance is 1 / PRECISION


def copies(values, count):
    return jnp.tile(jnp.float32(values)[:, None], count)


def linear_bound(key, locations, scales, bound):
    """Negative bounds for copies of one example under experts `[M, B]`, and the draws of z."""
    used, drawn = LINEAR[: len(locations)], []

    def decode(latents):
        drawn.append(latents.shared)
        outputs = (latents.shared * jnp.float32(row)[None] for row in SLOPES)
        return {m.name: x.reshape(-1, 4, 4, 1) for m, x in zip(used, outputs, strict=False)}

    experts = Experts(locations[..., None], scales[..., None], jnp.ones(locations.shape, bool))
    batch = {
        m.name: jnp.tile(jnp.float32(x).reshape(4, 4, 1), [locations.shape[1], 1, 1, 1])
        for m, x in zip(used, PIXELS, strict=False)
    }
    encoding = encode(experts, "mixture")
    values = elbo.negative_bound(key, encoding, batch, bound, Setting(used, decode))
    return values, drawn[0]


fast_linear_bound = fast_jit(linear_bound, static_argnames="bound")


@pytest.mark.parametrize("offsets", [(-0.3, 0.3), (-0.3, 1.5)], ids=["symmetric", "apart"])
def test_many_samples_reach_the_limit_of_the_bound(offsets):
    """Each stratum tends to log ∫ q_m / q p(x, z) dz; only by symmetry is their mean log p(x)."""
    locations, scales = CENTRE + np.array(offsets), np.full(2, PRECISION**-0.5 + 0.3)
    covariance = np.outer(SLOPES, SLOPES) + np.diag(np.repeat(NOISES, 16) ** 2)
    exact = multivariate_normal.logpdf(PIXELS.ravel(), np.zeros(32), covariance)
    grid = np.linspace(-8, 8, 2001)
    q = norm.pdf(grid, locations[:, None], scales[:, None])
    posterior = norm.pdf(grid, CENTRE, PRECISION**-0.5)
    limit = exact + np.log((q / q.mean(0) * posterior).sum(-1) * (grid[1] - grid[0])).mean()
    if sum(offsets) == 0:
        assert limit == pytest.approx(exact, abs=1e-6)
    else:
        assert limit < exact - 0.02
    means, errors = [], []
    for num_samples, count in ((1, 10_000), (5, 5_000), (500, 100)):
        bound = Bound(num_samples=num_samples, estimator="iwae")
        experts = copies(locations, count), copies(scales, count)
        values = -fast_linear_bound(jax.random.key(0), *experts, bound)[0]
        means.append(float(values.mean()))
        errors.append(float(values.std()) / np.sqrt(count))
    assert max(errors) < 0.02
    assert means[0] + 4 * errors[0] < means[1] - 4 * errors[1]
    assert means[1] + 4 * errors[1] < means[2] - 4 * errors[2]
    assert means[2] < exact + 4 * errors[2]
    assert means[2] == pytest.approx(limit, abs=0.01)


def expert_gradients(estimator, locations, scales, count, **constants):
    """Gradients for every expert's location and scale, one per example: `[2, M, count]`."""
    bound = Bound(estimator=estimator, **constants)
    seed = jax.random.key(elbo.ESTIMATORS.index(estimator))

    def loss(locations, scales):
        return linear_bound(seed, locations, scales, bound)[0].sum()

    of = fast_jit(jax.grad(loss, argnums=(0, 1)))
    return np.stack(of(copies(locations, count), copies(scales, count))).astype(float)


@pytest.mark.parametrize(
    ("locations", "scales", "constants"),
    [
        ([0.5], [0.8], {"num_samples": 5}),
        ([0.5], [0.8], {"num_samples": 5, "beta": 2.5}),
        ([0.5, -0.7], [0.8, 0.5], {"num_samples": 1}),
    ],
)
def test_dreg_has_the_same_expected_gradient_and_less_variance(locations, scales, constants):
    """Not exact with several draws from several strata: q's density is not a single stratum's."""
    count = 20_000
    plain = expert_gradients("iwae", locations, scales, count, **constants)
    doubly = expert_gradients("dreg", locations, scales, count, **constants)
    error = np.sqrt((plain.var(-1) + doubly.var(-1)) / count)
    assert (abs(plain.mean(-1) - doubly.mean(-1)) < 4 * error).all()
    assert (doubly.var(-1) < 0.6 * plain.var(-1)).all()


def test_dreg_against_its_formula():
    """Σ_k (w_k / Σ_l w_l)² ∂ log w_k / ∂z · ∂z / ∂φ in each of two strata."""
    locations, scales, count = np.array([0.5, -0.7]), np.array([0.8, 0.5]), 6
    bound = Bound(num_samples=4, estimator="dreg")

    @fast_jit
    def gradients(locations, scales):
        def loss(locations, scales):
            values, drawn = linear_bound(jax.random.key(12), locations, scales, bound)
            return values.sum(), drawn

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(locations, scales)

    (by_location, by_scale), drawn = jax.device_get(
        gradients(copies(locations, count), copies(scales, count))
    )
    drawn = as_drawn(drawn[:, 0], 4, 2).astype(float)

    def log_weight(z):
        likelihood = sum(
            norm.logpdf(x, a * z, s).sum() for x, a, s in zip(PIXELS, SLOPES, NOISES, strict=True)
        )
        return likelihood + norm.logpdf(z) - np.log(norm.pdf(z, locations, scales).mean())

    for stratum, example in itertools.product(range(2), range(count)):
        z = drawn[:, stratum, example]
        share = softmax([log_weight(value) for value in z])
        slope = np.array([(log_weight(v + 1e-5) - log_weight(v - 1e-5)) / 2e-5 for v in z])
        each = -0.5 * share**2 * slope  # half of the strata, and negated
        noise = (z - locations[stratum]) / scales[stratum]
        np.testing.assert_allclose(by_location[stratum, example], each.sum(), rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(by_scale[stratum, example], each @ noise, rtol=2e-4, atol=2e-5)


def test_dreg_keeps_the_gradient_of_the_generator_and_of_foreign_scales(batch):
    encoding = make_encoding("mixture", with_private=True)

    def gradient(estimator):
        @fast_jit
        @partial(jax.grad, argnums=(0, 1))
        def of(factor, auxiliary_scale):
            setting = Setting(MODALITIES, lambda u: {n: factor * v for n, v in decode(u).items()})
            return elbo.negative_bound(
                jax.random.key(13),
                encoding._replace(auxiliary_scale=auxiliary_scale),
                batch,
                Bound(beta=0.3, num_samples=3, estimator=estimator),
                setting,
                MASK,
            ).sum()

        return of(1.0, encoding.auxiliary_scale)

    plain, doubly = gradient("iwae"), gradient("dreg")
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(doubly), strict=True):
        assert (np.asarray(one) != 0).all()
        np.testing.assert_allclose(one, other, rtol=1e-5)
