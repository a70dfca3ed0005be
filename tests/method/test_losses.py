import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from scipy.stats import laplace, norm

from mmebm_jax.distributions import aggregators
from mmebm_jax.distributions.aggregators import Aggregation
from mmebm_jax.method.inference import Encoding, inference_loss
from mmebm_jax.method.losses import contrast_loss
from mmebm_jax.modalities.modality import Modality, joint_log_likelihood
from mmebm_jax.typing import Diagonal, Latents

PICTURE = Modality("picture", "image", (4, 4, 1), "gaussian", scale=0.5)
TEXT = Modality("text", "text", (2, 3), "categorical", weight=2.0)
MODALITIES = (PICTURE, TEXT)
NAMES = ("picture", "text")
DENSITIES = {"gaussian": norm, "laplace": laplace}
TO_PICTURE = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
TO_TEXT = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)


def decode(latents):
    return {
        "picture": (latents @ TO_PICTURE).reshape(-1, 4, 4, 1),
        "text": (latents @ TO_TEXT).reshape(-1, 2, 3),
    }


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(2)
    return {
        "picture": jnp.asarray(rng.uniform(-1, 1, size=(3, 4, 4, 1)), jnp.float32),
        "text": jax.nn.one_hot(rng.integers(3, size=(3, 2)), 3),
    }


def make_diagonal(rng):
    location, scale = rng.normal(size=(3, 2)), rng.uniform(0.3, 1.5, size=(3, 2))
    return Diagonal(jnp.asarray(location, jnp.float32), jnp.asarray(scale, jnp.float32))


def make_encoding(mask, aggregator="mixture", family="gaussian", with_private=False):
    rng = np.random.default_rng(3)
    experts = aggregators.stack({name: make_diagonal(rng) for name in NAMES}, mask)
    private = {name: make_diagonal(rng) for name in NAMES} if with_private else {}
    posterior = aggregators.aggregate(experts, Aggregation(aggregator), family=family)
    return Encoding(experts, posterior, private, {}, jnp.zeros(3))


def as_arrays(mask):
    return None if mask is None else {name: jnp.array(values) for name, values in mask.items()}


def seen_by(mask):
    return np.ones([2, 3], bool) if mask is None else np.array(list(mask.values()))


def log_likelihoods(latent, batch, example):
    """log p(x_m | z) for one latent and one example, by modality, in plain NumPy."""
    picture = np.asarray(batch["picture"])[example].ravel()
    tokens = np.asarray(batch["text"])[example].argmax(-1)
    table = log_softmax((latent @ TO_TEXT).reshape(2, 3), axis=-1)
    return np.array(
        [
            norm.logpdf(picture, latent @ TO_PICTURE, 0.5).sum(),
            2.0 * (table[0, tokens[0]] + table[1, tokens[1]]),
        ]
    )


MASKS = {
    "everything": None,
    "some missing": {"picture": [True, True, False], "text": [True, False, True]},
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_joint_log_likelihood(batch, mask):
    latents = np.random.default_rng(5).normal(size=(3, 2)).astype(np.float32)
    got = joint_log_likelihood(MODALITIES, decode(latents), batch, as_arrays(mask))
    seen = seen_by(mask)
    expected = [(log_likelihoods(latents[i], batch, i) * seen[:, i]).sum() for i in range(3)]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def make_latents(with_private):
    rng = np.random.default_rng(6)
    shared, *private = rng.normal(size=(3, 3, 2)).astype(np.float32)
    return Latents(shared, dict(zip(NAMES, private, strict=True)) if with_private else {})


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("with_private", [False, True])
@pytest.mark.parametrize("family", DENSITIES)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_inference_loss(mask, family, with_private, independent):
    """For the mixture, or each expert on its own: a mean of logarithms, not the log of a mean."""
    encoding = make_encoding(as_arrays(mask), family=family, with_private=with_private)
    latents = make_latents(with_private)
    logpdf = DENSITIES[family].logpdf
    expected = []
    for b in range(3):
        seen = np.flatnonzero(seen_by(mask)[:, b])
        location, scale = (np.asarray(x)[seen, b] for x in encoding.experts[:2])
        each = logpdf(latents.shared[b], location, scale).sum(-1)
        total = each.mean() if independent else logsumexp(each) - np.log(len(seen))
        for m in seen if with_private else []:
            own = (np.asarray(x)[b] for x in encoding.private[NAMES[m]])
            total += logpdf(latents.private[NAMES[m]][b], *own).sum()
        expected.append(-total)
    got = inference_loss(encoding, latents, as_arrays(mask), independent=independent)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_inference_loss_of_a_product():
    encoding, latents = make_encoding(None, "product"), make_latents(False)
    location, scale = (np.asarray(x, np.float64) for x in encoding.experts[:2])
    precision = (scale**-2).sum(0)
    mean = (location * scale**-2).sum(0) / precision
    expected = -norm.logpdf(latents.shared, mean, precision**-0.5).sum(-1)
    np.testing.assert_allclose(inference_loss(encoding, latents), expected, rtol=1e-5)


@pytest.mark.parametrize("independent", [False, True])
def test_inference_loss_moves_what_is_observed_alone(independent):
    mask, latents = as_arrays(MASKS["some missing"]), make_latents(True)
    encoding = make_encoding(mask, with_private=True)

    @jax.jit
    @jax.grad
    def gradient(moved):
        (location, scale), private = moved
        experts = encoding.experts._replace(location=location, scale=scale)
        changed = encoding._replace(
            experts=experts,
            posterior=aggregators.aggregate(experts, Aggregation("mixture")),
            private=private,
        )
        return inference_loss(changed, latents, mask, independent=independent).sum()

    by_experts, by_private = gradient((tuple(encoding.experts[:2]), encoding.private))
    for m, name in enumerate(NAMES):
        for values in (*(x[m] for x in by_experts), *by_private[name]):
            seen = np.asarray(mask[name])
            assert (np.asarray(values)[seen] != 0).all()
            np.testing.assert_array_equal(np.asarray(values)[~seen], 0)


@pytest.mark.parametrize(("penalty", "expected"), [(0.0, [-2.0, 5.0]), (0.1, [-1.0, 6.3])])
def test_contrast_loss(penalty, expected):
    data, sample = jnp.array([1.0, 2.0]), jnp.array([3.0, -3.0])
    got = contrast_loss(data, sample, penalty)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    by_data, by_sample = jax.grad(lambda *e: contrast_loss(*e, penalty).sum(), argnums=(0, 1))(
        data, sample
    )
    np.testing.assert_allclose(by_data, 1 + 2 * penalty * data, rtol=1e-6)
    np.testing.assert_allclose(by_sample, -1 + 2 * penalty * sample, rtol=1e-6)
