import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm

from mmebm_jax import inference, objectives
from mmebm_jax.modality import Modality

PICTURE = Modality("picture", "image", (4, 4, 1), "gaussian", scale=0.5)
TEXT = Modality("text", "sequence", (2, 3), "categorical", weight=2.0)
MODALITIES = (PICTURE, TEXT)
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


def make_experts(mask=None):
    rng = np.random.default_rng(3)
    return inference.mixture_of_experts(
        {
            name: (
                jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
                jnp.asarray(rng.uniform(0.3, 1.5, size=(3, 2)), jnp.float32),
            )
            for name in ("picture", "text")
        },
        mask,
    )


def log_likelihoods(latent, batch, example):
    """log p(x_m | z) of one latent and one example, by modality and in NumPy alone."""
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


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_mmvae_loss_against_loops(batch, beta, mask):
    arrays = None if mask is None else {name: jnp.array(values) for name, values in mask.items()}
    experts, key = make_experts(arrays), jax.random.key(4)
    latents = np.asarray(inference.stratified_sample(key, experts))
    expected = []
    for example in range(3):
        seen = [m for m in range(2) if mask is None or list(mask.values())[m][example]]
        bounds = []
        for expert in seen:
            z = latents[expert, example]
            each = [
                norm.logpdf(z, experts.mean[m, example], experts.scale[m, example]).sum()
                for m in seen
            ]
            log_q = logsumexp(each) - np.log(len(seen))
            reconstruction = log_likelihoods(z, batch, example)[seen].sum()
            bounds.append(reconstruction + beta * (norm.logpdf(z).sum() - log_q))
        expected.append(-np.mean(bounds))
    got = objectives.mmvae_loss(
        key, experts, batch, modalities=MODALITIES, decode=decode, beta=beta, mask=arrays
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_mmvae_loss_of_one_linear_modality_is_the_closed_form():
    """One expert and a linear decoder: the bound's expectation needs no sampling."""
    count, mean, scale, slope = 40_000, 0.7, 0.6, 0.4
    experts = inference.mixture_of_experts(
        {"picture": (jnp.full([count, 1], mean), jnp.full([count, 1], scale))}
    )
    values = objectives.mmvae_loss(
        jax.random.key(0),
        experts,
        {"picture": jnp.full([count, 4, 4, 1], 0.2)},
        modalities=(PICTURE,),
        decode=lambda z: {"picture": jnp.tile(slope * z[:, :, None, None], [1, 4, 4, 1])},
        beta=2.0,
    )
    squares = (0.2 - slope * mean) ** 2 + slope**2 * scale**2
    reconstruction = 16 * (-squares / (2 * 0.25) - np.log(0.5) - np.log(2 * np.pi) / 2)
    divergence = (mean**2 + scale**2 - 1) / 2 - np.log(scale)
    error = 4 * float(values.std()) / np.sqrt(count)
    assert float(values.mean()) == pytest.approx(-reconstruction + 2 * divergence, abs=error)
    assert error < 0.1


def test_mmvae_loss_moves_experts_and_generator(batch):
    experts = make_experts()

    def loss(mean, scale, factor):
        return objectives.mmvae_loss(
            jax.random.key(0),
            experts._replace(mean=mean, scale=scale),
            batch,
            modalities=MODALITIES,
            decode=lambda z: {n: factor * v for n, v in decode(z).items()},
        ).sum()

    for gradient in jax.grad(loss, argnums=(0, 1, 2))(experts.mean, experts.scale, 1.0):
        assert (np.asarray(gradient) != 0).all()


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_generator_loss(batch, mask):
    latents = np.random.default_rng(5).normal(size=(3, 2)).astype(np.float32)
    arrays = None if mask is None else {name: jnp.array(values) for name, values in mask.items()}
    got = objectives.generator_loss(decode(latents), batch, modalities=MODALITIES, mask=arrays)
    seen = np.ones([3, 2]) if mask is None else np.transpose(list(mask.values()))
    expected = [-(log_likelihoods(latents[i], batch, i) * seen[i]).sum() for i in range(3)]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_inference_loss():
    experts = make_experts()
    latents = np.random.default_rng(6).normal(size=(3, 2)).astype(np.float32)
    each = norm.logpdf(latents, experts.mean, experts.scale).sum(-1)
    np.testing.assert_allclose(
        objectives.inference_loss(experts, latents),
        np.log(2) - logsumexp(each, axis=0),
        rtol=1e-5,
    )


@pytest.mark.parametrize(("penalty", "expected"), [(0.0, [-2.0, 5.0]), (0.1, [-1.0, 6.3])])
def test_contrast_loss(penalty, expected):
    data, sample = jnp.array([1.0, 2.0]), jnp.array([3.0, -3.0])
    got = objectives.contrast_loss(data, sample, penalty)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    by_data, by_sample = jax.grad(
        lambda *e: objectives.contrast_loss(*e, penalty).sum(), argnums=(0, 1)
    )(data, sample)
    np.testing.assert_allclose(by_data, 1 + 2 * penalty * data, rtol=1e-6)
    np.testing.assert_allclose(by_sample, -1 + 2 * penalty * sample, rtol=1e-6)
