import itertools
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import laplace, norm

from mmebm_jax.distributions import aggregators
from mmebm_jax.distributions.aggregators import AGGREGATORS, Aggregation, Experts
from mmebm_jax.distributions.families import standard_noise
from mmebm_jax.distributions.mixture_of_experts import log_prob, mean, sample, stratified_sample
from mmebm_jax.method.inference import Encoding, every_nth, infer
from mmebm_jax.typing import Diagonal
from tests.references import consensus_by_inverses

NAMES = ("a", "b", "c")
# Every pattern with at least one observed modality, one per example.
PATTERNS = np.array(list(itertools.product([False, True], repeat=3))[1:]).T  # shape=[M, B]
NUM_EXAMPLES = PATTERNS.shape[1]
CORRELATION = 0.4
JOINT = np.random.default_rng(5).uniform(0.3, 2, size=(2, 1, NUM_EXAMPLES, 2))  # mean and scale
fast_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
fast = SimpleNamespace(
    aggregate=fast_jit(aggregators.aggregate, static_argnames=("aggregation", "family")),
    infer=fast_jit(infer, static_argnames=("draw_private", "central")),
    log_prob=fast_jit(log_prob),
    mean=fast_jit(mean),
    sample=fast_jit(sample),
    stratified_sample=fast_jit(stratified_sample, static_argnames="num_samples"),
)


def make_experts(observed=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (3, NUM_EXAMPLES, 2)
    location, scale = rng.normal(size=shape), rng.uniform(0.3, 2, size=shape)
    observed = np.ones(shape[:2], bool) if observed is None else observed
    # Also an expert of all modalities, which only `joint_expert` uses.
    joint = Diagonal(jnp.asarray(JOINT[0], jnp.float32), jnp.asarray(JOINT[1], jnp.float32))
    return Experts(
        *(jnp.asarray(x, jnp.float32) for x in (location, scale)), jnp.array(observed), joint
    )


def repeated(values, num_examples):
    """`[M, D]` → `[M, B, D]`."""
    values = jnp.asarray(values, jnp.float32)
    return jnp.broadcast_to(values[:, None], (values.shape[0], num_examples, values.shape[1]))


def one_dimensional(means, scales):
    means, scales = np.reshape(means, [-1, 1]), np.reshape(scales, [-1, 1])
    return Experts(repeated(means, 1), repeated(scales, 1), jnp.ones([len(means), 1], bool))


def components(posterior, example):
    """(weight, mean, variance) of each existing component, in NumPy."""
    parts = zip(posterior.log_weight, posterior.location, posterior.scale, strict=True)
    return [
        (np.exp(w[example]), np.asarray(m[example]), np.square(s[example]))
        for w, m, s in parts
        if w[example] > -np.inf
    ]


def test_stack():
    experts = {
        name: Diagonal(jnp.full([4, 2], i), jnp.full([4, 2], i + 0.5))
        for i, name in enumerate(NAMES)
    }
    mask = {name: jnp.arange(4) != i for i, name in reversed(list(enumerate(NAMES)))}
    everyone, some = aggregators.stack(experts), aggregators.stack(experts, mask)
    for i in range(3):
        np.testing.assert_array_equal(some.location[i], np.full((4, 2), i))
        np.testing.assert_array_equal(some.scale[i], np.full((4, 2), i + 0.5))
        np.testing.assert_array_equal(some.observed[i], np.arange(4) != i)
    assert everyone.observed.shape == (3, 4)
    assert everyone.observed.all()


# Aggregators, against published numbers and float64 formulas.

PUBLISHED = {
    ("product", 0.0): [(1, 0.2, 0.8)],
    ("product_with_prior", 0.0): [(1, 0.1111, 0.4444)],
    ("mixture", 0.0): [(1 / 2, 0, 1), (1 / 2, 1, 4)],
    ("mixture_of_products", 0.0): [(1 / 3, 1, 4), (1 / 3, 0, 1), (1 / 3, 0.1111, 0.4444)],
    ("geometric", 0.0): [(1, 0.1111, 1.3333)],
    ("wasserstein", 0.0): [(1, 0.5, 2.25)],
    ("mixture_of_wasserstein", 0.0): [(1 / 3, 1, 4), (1 / 3, 0, 1), (1 / 3, 0.5, 2.25)],
    ("hellinger", 0.0): [(1, 0.3621, 2.2437)],
    ("mixture_of_hellinger", 0.0): [(1 / 3, 1, 4), (1 / 3, 0, 1), (1 / 3, 0.3621, 2.2437)],
    # S = 0.8508 for both orders of the pair.
    ("holder", 0.0): [(0.2702, 0, 1), (0.4597, 0.2, 1.6), (0.2702, 1, 4)],
    ("consensus", 0.4): [(1, 0.0588, 0.9882)],
    ("consensus", 0.0): [(1, 0.2, 0.8)],
}


@pytest.mark.parametrize(("aggregator", "correlation"), PUBLISHED)
def test_the_published_example(aggregator, correlation):
    posterior = fast.aggregate(
        one_dimensional([0, 1], [1, 2]), Aggregation(aggregator, correlation)
    )
    got = [np.ravel(parts) for parts in zip(*components(posterior, 0), strict=True)]
    expected = list(zip(*PUBLISHED[aggregator, correlation], strict=True))
    np.testing.assert_allclose(got, expected, atol=6e-5)


def test_the_published_moments_of_the_mixture():
    parts = components(fast.aggregate(one_dimensional([0, 1], [1, 2]), Aggregation("mixture")), 0)
    mean = sum(w * m for w, m, _ in parts)
    second = sum(w * (v + m**2) for w, m, v in parts)
    np.testing.assert_allclose([mean[0], (second - mean**2)[0]], [0.5, 2.75], rtol=1e-6)


def test_holder_has_the_moments_of_hellinger_and_its_density():
    experts = make_experts(PATTERNS)
    exact, moments = (fast.aggregate(experts, Aggregation(n)) for n in ("holder", "hellinger"))
    weight = np.exp(exact.log_weight)[..., None]
    np.testing.assert_allclose(weight.sum(0), 1, rtol=1e-5)
    first = (weight * exact.location).sum(0)
    second = (weight * (np.square(exact.scale) + np.square(exact.location))).sum(0)
    np.testing.assert_allclose(first, moments.location[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second - first**2, np.square(moments.scale[0]), rtol=1e-4)
    # The same density up to a constant: the square of the sum of square roots.
    latents = np.random.default_rng(1).normal(size=(20, 1, 2)).repeat(NUM_EXAMPLES, axis=1)
    latents = latents.astype(np.float32)
    each = norm.logpdf(latents[:, None], experts.location[None], experts.scale[None]).sum(-1)
    roots = np.where(PATTERNS[None], np.exp(each / 2), 0).sum(1)
    constant = 2 * np.log(roots) - fast.log_prob(exact, latents)
    np.testing.assert_allclose(constant, constant[:1].repeat(20, axis=0), rtol=1e-3, atol=1e-4)


def product_of(means, scales):
    precision = (scales**-2.0).sum(0)
    return (means * scales**-2.0).sum(0) / precision, 1 / precision


def with_standard(means, scales):
    """The experts with N(0, I) as an additional one."""
    return np.vstack([means, np.zeros(2)]), np.vstack([scales, np.ones(2)])


def hellinger_on_a_grid(means, scales):
    axis = np.linspace(-16, 16, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    roots = [np.sqrt(norm.pdf(grid, m, s).prod(-1)) for m, s in zip(means, scales, strict=True)]
    density = np.square(sum(roots))
    density /= density.sum()
    mean = np.einsum("ij,ijd->d", density, grid)
    return mean, np.einsum("ij,ijd->d", density, np.square(grid - mean))


def wasserstein_by_quantiles(means, scales):
    middle, above = (norm.ppf(p, means, scales).mean(0) for p in (0.5, norm.cdf(1)))
    return middle, (above - middle) ** 2


def geometric_by_logarithms(means, scales):
    """Moments of the geometric mean: minus the mean log-density's curvature is the precision."""
    everyone = with_standard(means, scales)
    left, centre, right = (norm.logpdf(z, *everyone).mean(0) for z in (-1, 0, 1))
    precision = 2 * centre - left - right
    return (right - left) / 2 / precision, 1 / precision


FORMULAS = {
    "product": product_of,
    "product_with_prior": lambda m, s: product_of(*with_standard(m, s)),
    "geometric": geometric_by_logarithms,
    "wasserstein": wasserstein_by_quantiles,
    "hellinger": hellinger_on_a_grid,
    "consensus": partial(consensus_by_inverses, correlation=CORRELATION),
}


OF_SUBSETS = {"mixture_of_wasserstein": "wasserstein", "mixture_of_hellinger": "hellinger"}


def holder_of(means, scales):
    """(weight, mean, variance) for each pair of experts, from the product of square roots."""
    parts = []
    for i, j in itertools.combinations_with_replacement(range(len(means)), 2):
        pair = [i, j]
        mean, variance = product_of(means[pair], np.sqrt(2) * scales[pair])
        overlap = [norm.logpdf(0, means[k], scales[k]) / 2 for k in pair]
        log_weight = np.sum(sum(overlap) - norm.logpdf(0, mean, np.sqrt(variance)))
        parts.append((np.exp(log_weight) * (1 if i == j else 2), mean, variance))
    total = sum(weight for weight, _, _ in parts)
    return [(weight / total, mean, variance) for weight, mean, variance in parts]


def reference(aggregator, means, scales, seen, joint):
    """(weight, mean, variance) of the components for one example, in float64."""
    if aggregator == "holder":
        return holder_of(means[seen], scales[seen])
    if aggregator == "joint_expert":
        alone = product_of(means[seen], scales[seen])
        return [(1, *((joint[0], joint[1] ** 2) if len(seen) == 3 else alone))]
    if aggregator == "mixture":
        parts = [(means[m], scales[m] ** 2) for m in seen]
    elif aggregator == "mixture_of_products" or aggregator in OF_SUBSETS:
        parts = []
        for chosen in itertools.product([False, True], repeat=3):
            members = np.flatnonzero(chosen)
            if len(members) and set(members) <= set(seen):
                group = means[members], scales[members]
                if aggregator in OF_SUBSETS:
                    parts.append(FORMULAS[OF_SUBSETS[aggregator]](*group))
                    continue
                parts.append(product_of(*(with_standard(*group) if all(chosen) else group)))
    else:
        parts = [FORMULAS[aggregator](means[seen], scales[seen])]
    return [(1 / len(parts), *part) for part in parts]


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_aggregate_against_formulas(aggregator):
    """Three experts, two dimensions, and every pattern of missing modalities."""
    experts = make_experts(PATTERNS)
    posterior = fast.aggregate(experts, Aggregation(aggregator, CORRELATION))
    means, scales = (np.asarray(x, np.float64) for x in experts[:2])
    for b in range(NUM_EXAMPLES):
        seen = np.flatnonzero(PATTERNS[:, b])
        expected = reference(aggregator, means[:, b], scales[:, b], seen, JOINT[:, 0, b])
        got = components(posterior, b)
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            for x, y in zip(one, other, strict=True):
                np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6)


def test_consensus_without_correlation_is_the_product():
    experts = make_experts(PATTERNS)
    one, other = (fast.aggregate(experts, Aggregation(name)) for name in ("consensus", "product"))
    np.testing.assert_allclose(one.location, other.location, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.scale, other.scale, rtol=1e-5)


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_one_observed_modality_is_its_expert(aggregator):
    observed = np.array([[False], [False], [True]]).repeat(NUM_EXAMPLES, axis=1)
    experts = make_experts(observed)
    wild = experts._replace(
        location=experts.location.at[:2].add(1e3), scale=experts.scale.at[:2].set(1e-3)
    )
    posterior = fast.aggregate(wild, Aggregation(aggregator, CORRELATION))
    location, scale = (np.asarray(x[2], np.float64) for x in experts[:2])
    shrink = {"product_with_prior": 1.0, "geometric": 0.5}.get(aggregator)
    if shrink:  # N(0, I) is an additional expert; the geometric mean halves both precisions
        location, scale = location / (1 + scale**2), scale / np.sqrt(shrink * (1 + scale**2))
    latents = np.random.default_rng(1).normal(size=location.shape).astype(np.float32)
    expected = norm.logpdf(latents, location, scale).sum(-1)
    np.testing.assert_allclose(fast.log_prob(posterior, latents), expected, rtol=1e-4)
    np.testing.assert_allclose(fast.mean(posterior), location, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_a_missing_modality_has_no_influence(aggregator):
    experts = make_experts(PATTERNS)
    missing = ~jnp.array(PATTERNS)[..., None]
    wild = experts._replace(
        location=jnp.where(missing, experts.location + 100, experts.location),
        scale=jnp.where(missing, 30 * experts.scale, experts.scale),
    )
    latents = jax.random.normal(jax.random.key(0), (NUM_EXAMPLES, 2))

    @fast_jit
    def values_and_gradient(experts):
        def of(location, scale):
            posterior = aggregators.aggregate(
                experts._replace(location=location, scale=scale),
                Aggregation(aggregator, CORRELATION),
            )
            values = {
                "log_prob": log_prob(posterior, latents),
                "mean": mean(posterior),
                "sample": sample(jax.random.key(1), posterior),
            }
            return sum(v.sum() for v in values.values()), values

        return jax.grad(of, argnums=(0, 1), has_aux=True)(experts.location, experts.scale)

    gradient, values = values_and_gradient(experts)
    gradient_wild, values_wild = values_and_gradient(wild)
    jax.tree.map(np.testing.assert_array_equal, values, values_wild)
    # For complete examples, only the joint expert determines z.
    moving = PATTERNS & ~PATTERNS.all(axis=0) if aggregator == "joint_expert" else PATTERNS
    seen = np.broadcast_to(moving[..., None], experts.location.shape)
    for got, changed in zip(gradient, gradient_wild, strict=True):
        np.testing.assert_array_equal(got, changed)
        np.testing.assert_array_equal(np.asarray(got)[~seen], 0)
        assert (np.asarray(got)[seen] != 0).all()


def extreme_experts(dtype=np.float32):
    """Five experts with 512 latents, scales within 1e-3 … 1e3 and means within ±10."""
    rng = np.random.default_rng(2)
    shape = (5, 512)
    scales = [
        10 ** rng.uniform(-3, 3, size=shape),
        np.full(shape, 1e-3),
        np.full(shape, 1e3),
        np.where(rng.uniform(size=shape) < 0.5, 1e-3, 1e3),
        np.resize([[1e-3], [1e3]], [5, 1]) * np.ones(shape),
    ]
    observed = [np.ones(5, bool), np.arange(5) > 1, np.arange(5) == 0]
    pairs = list(itertools.product(scales, observed))
    scale, mask = (np.stack(parts, axis=1) for parts in zip(*pairs, strict=True))
    mean = np.resize([-10, 10], [5, 1, 1]) * rng.choice([-1, 1], size=scale.shape)
    half = rng.uniform(size=scale.shape) < 0.5
    mean = np.where(half, mean, rng.uniform(-10, 10, size=scale.shape))
    # Rounded to float32 in either case, so that both see the same numbers.
    mean, scale = (jnp.asarray(x.astype(np.float32), dtype) for x in (mean, scale))
    joint = Diagonal(mean[:1], scale[:1])
    return Experts(mean, scale, jnp.array(mask), joint)


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_extreme_experts_stay_finite_and_exact(aggregator):
    @fast_jit
    def everything(experts):
        def of(location, scale):
            one = aggregators.aggregate(
                experts._replace(location=location, scale=scale), Aggregation(aggregator, 0.9)
            )
            return one.location.sum() + jnp.log(one.scale).sum(), one

        gradient, posterior = jax.grad(of, argnums=(0, 1), has_aux=True)(
            experts.location, experts.scale
        )
        draws = stratified_sample(jax.random.key(0), posterior)
        density, back = jax.vjp(log_prob, posterior, draws)
        through_posterior, through_draws = back(jnp.ones_like(density))
        finite = (*gradient, density, through_posterior.location, through_posterior.scale)
        return posterior.location, posterior.scale, (*finite, through_draws)

    location, scale, others = everything(extreme_experts())
    for values in (location, scale, *others):
        assert np.isfinite(values).all()
    assert (np.asarray(scale) > 0).all()
    jax.config.update("jax_enable_x64", True)
    try:
        exact = fast.aggregate(extreme_experts(np.float64), Aggregation(aggregator, 0.9))
        assert exact.scale.dtype == np.float64
    finally:
        jax.config.update("jax_enable_x64", False)
    np.testing.assert_allclose(location, exact.location, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(scale, exact.scale, rtol=1e-5)


# Posteriors: densities and draws for any aggregator.


@pytest.mark.parametrize(("family", "density"), [("gaussian", norm), ("laplace", laplace)])
def test_log_density_of_the_mixture(family, density):
    experts = make_experts(PATTERNS)
    latents = np.random.default_rng(1).normal(size=(NUM_EXAMPLES, 2)).astype(np.float32)
    each = density.logpdf(latents, experts.location, experts.scale).sum(-1)
    each = np.where(PATTERNS, each, -np.inf)
    expected = logsumexp(each, axis=0) - np.log(PATTERNS.sum(0))
    mixture = fast.aggregate(experts, Aggregation("mixture"), family=family)
    np.testing.assert_allclose(fast.log_prob(mixture, latents), expected, rtol=1e-5)


def test_log_density_broadcasts_over_leading_axes():
    mixture = fast.aggregate(make_experts(), Aggregation("mixture"))
    latents = jax.random.normal(jax.random.key(0), (4, NUM_EXAMPLES, 2))
    got = fast.log_prob(mixture, latents)
    assert got.shape == (4, NUM_EXAMPLES)
    for row, one in zip(got, latents, strict=True):
        np.testing.assert_allclose(row, fast.log_prob(mixture, one), rtol=1e-5)


def test_the_mean_of_all_experts():
    experts = make_experts(PATTERNS)
    expected = np.average(
        experts.location, axis=0, weights=np.broadcast_to(PATTERNS[..., None], (3, 7, 2))
    )
    got = fast.mean(fast.aggregate(experts, Aggregation("mixture")))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["gaussian", "laplace"])
@pytest.mark.parametrize("seen", [(0, 1, 2), (0, 2)])
def test_samples_have_the_mixtures_moments(seen, family):
    count = 40_000
    means = np.array([[-3.0, 1.0], [4.0, 0.0], [1.0, 2.0]])
    scales = np.array([[0.5, 1.0], [0.2, 2.0], [1.0, 0.1]])
    observed = jnp.array([[m in seen] * count for m in range(3)])
    experts = Experts(repeated(means, count), repeated(scales, count), observed)
    mixture = fast.aggregate(experts, Aggregation("mixture"), family=family)
    samples = np.asarray(fast.sample(jax.random.key(0), mixture))
    assert samples.shape == (count, 2)
    variances = scales**2 * (1 if family == "gaussian" else 2)
    mean = np.mean([means[m] for m in seen], axis=0)
    # One expert is chosen for all latents, so the mixture's dimensions are correlated.
    second = np.mean([np.outer(means[m], means[m]) + np.diag(variances[m]) for m in seen], axis=0)
    covariance = second - np.outer(mean, mean)
    error = np.sqrt(np.diag(covariance) / count)
    assert (abs(samples.mean(0) - mean) < 4 * error).all()
    np.testing.assert_allclose(np.cov(samples.T), covariance, rtol=0.04, atol=0.04)


def test_stratified_samples_come_from_each_component():
    means, scales = np.array([[-3.0], [4.0], [1.0]]), np.array([[0.5], [0.2], [2.0]])
    mixture = fast.aggregate(one_dimensional(means, scales), Aggregation("mixture"))
    samples = np.asarray(fast.stratified_sample(jax.random.key(0), mixture, 20_000))
    assert samples.shape == (20_000, 3, 1, 1)
    for part, location, scale in zip(samples[:, :, 0, 0].T, means[:, 0], scales[:, 0], strict=True):
        assert abs(part.mean() - location) < 4 * scale / np.sqrt(20_000)
        assert abs(part.std() - scale) < 4 * scale / np.sqrt(2 * 20_000)


@pytest.mark.parametrize("family", ["gaussian", "laplace"])
def test_stratified_samples_are_reparametrised(family):
    mixture = fast.aggregate(make_experts(), Aggregation("mixture"), family=family)

    def total(location, scale):
        posterior = mixture.replace(location=location, scale=scale)
        return stratified_sample(jax.random.key(0), posterior).sum()

    by_location, by_scale = jax.grad(total, argnums=(0, 1))(mixture.location, mixture.scale)
    np.testing.assert_array_equal(by_location, np.ones([3, NUM_EXAMPLES, 2]))
    draw = jax.random.normal if family == "gaussian" else jax.random.laplace
    np.testing.assert_allclose(by_scale, draw(jax.random.key(0), mixture.scale.shape), rtol=1e-6)


# Shared and private latents together.

COUNT = 20_000
OWN = {"a": (3.0, 0.2), "b": (-4.0, 0.5), "c": (0.5, 0.1)}  # mean and scale of q_m(w)


def draw_standard(family, key, name, shared):
    return standard_noise(key, family, (len(shared), 1))


def infer_many(prior_family, mask, central):
    private = {n: Diagonal(*(jnp.full([COUNT, 1], x) for x in OWN[n])) for n in NAMES}
    shared = {n: Diagonal(jnp.full([COUNT, 1], 7.0), jnp.full([COUNT, 1], 0.3)) for n in NAMES}
    experts = aggregators.stack(shared, mask)
    posterior = fast.aggregate(experts, Aggregation("mixture"))
    encoding = Encoding(experts, posterior, private, {}, jnp.zeros(7))
    draw = partial(draw_standard, prior_family)
    return fast.infer(jax.random.key(0), encoding, draw, mask, central=central)


def test_infer_draws_missing_private_latents_given_the_shared_one():
    mask = {name: jnp.full([COUNT], name != "b") for name in NAMES}
    experts = aggregators.stack(
        {n: Diagonal(jnp.full([COUNT, 1], 7.0), jnp.full([COUNT, 1], 0.3)) for n in NAMES}, mask
    )
    private = {n: Diagonal(*(jnp.full([COUNT, 1], x) for x in OWN[n])) for n in NAMES}
    encoding = Encoding(
        experts, fast.aggregate(experts, Aggregation("mixture")), private, {}, jnp.zeros(7)
    )
    latents = fast.infer(jax.random.key(0), encoding, lambda key, name, z: 2.0 * z, mask)
    np.testing.assert_array_equal(latents.private["b"], 2.0 * latents.shared)
    assert not np.allclose(latents.private["a"], 2.0 * latents.shared)


def assert_moments(values, mean, scale, fourth=3.0):
    """Check moments of a location-scale family with kurtosis `fourth`, to 4 standard errors."""
    values = np.asarray(values)
    assert values.shape == (COUNT, 1)
    assert abs(values.mean() - mean) < 4 * scale / np.sqrt(COUNT)
    error = scale**2 * np.sqrt((fourth - 1) / COUNT)
    assert abs(np.square(values - mean).mean() - scale**2) < 4 * error


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize(
    ("prior_family", "prior_scale", "fourth"), [("gaussian", 1.0, 3.0), ("laplace", np.sqrt(2), 6)]
)
def test_infer_draws_missing_private_latents_from_the_prior(
    prior_family, prior_scale, fourth, central
):
    mask = {name: jnp.full([COUNT], name != "b") for name in NAMES}
    latents = infer_many(prior_family, mask, central)
    if central:
        np.testing.assert_allclose(latents.shared, np.full([COUNT, 1], 7.0), rtol=1e-6)
        for name in ("a", "c"):
            np.testing.assert_allclose(latents.private[name], np.full([COUNT, 1], OWN[name][0]))
    else:
        assert_moments(latents.shared, 7.0, 0.3)
        for name in ("a", "c"):
            assert_moments(latents.private[name], *OWN[name])
    assert_moments(latents.private["b"], 0.0, prior_scale, fourth)


def test_infer_draws_every_part_by_itself():
    """No two parts share noise, and only the mask decides which examples are missing."""
    half = jnp.arange(COUNT) % 2 == 0
    mask = {"a": half, "b": half, "c": jnp.ones(COUNT, bool)}
    latents = infer_many("gaussian", mask, False)
    assert_moments(infer_many("gaussian", None, False).private["b"], *OWN["b"])
    even = [latents.shared, *latents.private.values()]
    for rows, kept in ((slice(0, None, 2), 4), (slice(1, None, 2), 4)):
        draws = np.stack([np.asarray(values)[rows, 0] for values in even])
        correlations = np.corrcoef(draws) - np.eye(kept)
        assert abs(correlations).max() < 4 / np.sqrt(COUNT / 2)
    w = np.asarray(latents.private["b"])[:, 0]
    assert abs(w[half] - OWN["b"][0]).max() < 6 * OWN["b"][1]
    assert abs(w[~half].mean()) < 4 / np.sqrt(COUNT / 2)


def test_every_nth_is_the_encoding_of_those_examples_alone(private_model):
    params = jax.jit(private_model.init)(jax.random.key(0))["inference"]
    rng = np.random.default_rng(0)
    batch = {
        m.name: jnp.asarray(rng.uniform(size=(6, *m.shape)), jnp.float32)
        for m in private_model.modalities
    }
    mask = {"picture": np.arange(6) != 2, "text": np.arange(6) != 4}
    some = {name: values[::2] for name, values in batch.items()}
    some_mask = {name: values[::2] for name, values in mask.items()}
    got = every_nth(private_model.encode(params, batch, mask), 2)
    expected = private_model.encode(params, some, some_mask)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
