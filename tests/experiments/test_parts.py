"""Ablations of a sampler's parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import parts, results
from experiments.measures.subject import of_the_prior_itself
from mmebm_jax.distributions import base_prior
from mmebm_jax.distributions.base_prior import Mixture
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.networks import Chains
from mmebm_jax.method.sampling import SamplerSettings
from mmebm_jax.method.train_state import Weights
from mmebm_jax.runs.sampler import Sampler
from tests.commands import assert_one_line, run_here, save_run, small_config


def test_too_few_samples_are_refused_before_anything_is_trained(tmp_path, capsys):
    save_run(tmp_path, small_config())
    for count, named in ((1, "give at least 2"), (2, "takes at least 65 samples, and there are 2")):
        arguments = [f"--runs={tmp_path}", f"--num_samples={count}"]
        _, error = run_here(capsys, *arguments, program=parts)
        assert_one_line(error, f"--num_samples={count}", named)
    assert not (tmp_path / "classifiers").exists()


def test_one_gaussian_has_the_mean_and_covariance_of_the_mixture():
    weights = np.array([0.2, 0.5, 0.3])
    keys = jax.random.split(jax.random.key(0), 2)
    means = jax.random.normal(keys[0], [3, 2])
    roots = jnp.tril(jax.random.normal(keys[1], [3, 2, 2])) + 2 * jnp.eye(2)[None]
    covariances = np.asarray(roots @ jnp.swapaxes(roots, 1, 2))
    mean = weights @ np.asarray(means)
    away = np.asarray(means) - mean
    covariance = np.einsum("n,nij->ij", weights, covariances)
    covariance += np.einsum("n,ni,nj->ij", weights, away, away)

    merged = parts.merged(Mixture(jnp.log(jnp.asarray(weights)), means, jnp.linalg.inv(roots)))

    np.testing.assert_allclose(merged.mean, np.tile(mean, [3, 1]), rtol=1e-5)
    for whitening in np.asarray(merged.whitening):
        inverse = np.linalg.inv(whitening)
        np.testing.assert_allclose(inverse @ inverse.T, covariance, rtol=1e-4)


def test_the_truth_of_a_calibration_is_drawn_from_the_prior_that_its_posteriors_know(tiny_model):
    weights = Weights(
        jax.jit(tiny_model.init)(jax.random.key(0)), base_prior.standard(2, tiny_model.num_latents)
    )
    chains = Chains(*3 * [Chain(0, 0.1)])
    usual, cold = (
        Sampler(tiny_model, weights, SamplerSettings(each, False, False))
        for each in (chains, chains._replace(shared_temperature=0.25, token_temperature=0.5))
    )
    key = jax.random.key(0)
    expected = usual.prior_latents(key, 5).shared
    np.testing.assert_array_equal(of_the_prior_itself(cold).prior_latents(key, 5).shared, expected)
    assert (cold.prior_latents(key, 5).shared != expected).all()
    rows = parts.variants(0.5)
    for name in ("shared", "token"):
        changed = rows[f"{name} temperature 1"](cold).settings.chains
        field = f"{name}_temperature"
        assert changed == cold.settings.chains._replace(**{field: 1.0})


def test_a_run_is_not_measured_without_what_it_never_had(tiny_model):
    weights = Weights(
        jax.jit(tiny_model.init)(jax.random.key(0)), base_prior.standard(2, tiny_model.num_latents)
    )
    chains = Chains(*3 * [Chain(2, 0.1)])
    settings = SamplerSettings(chains, prior_energy=False, data_energy=True, candidates=4)
    sampler = Sampler(tiny_model, weights, settings)
    same = {
        name: parts.is_the_same(change(sampler), sampler)
        for name, change in parts.variants(0.5).items()
        if name.startswith("without")
    }
    assert same == {
        "without the posterior chain": True,
        "without candidates": False,
        "without the data energy": False,
        "without latent energies": True,
    }
    bare = parts.without_data_energy(sampler)
    key = jax.random.key(1)
    for name, values in sampler.sample(key, 3, num_steps=0).items():
        np.testing.assert_array_equal(bare.sample(key, 3)[name], values)


@pytest.mark.parametrize(("factor", "steps"), [(0.25, 2), (2.0, 20), (4.0, 40), (0.01, 1)])
def test_other_steps_of_the_data_chain_take_the_same_time(tiny_model, factor, steps):
    weights = Weights({}, base_prior.standard(2, tiny_model.num_latents))
    chains = Chains(*3 * [Chain(10, 0.7)])
    sampler = Sampler(tiny_model, weights, SamplerSettings(chains, False, True))
    changed = parts.in_equal_time(sampler, factor).settings.chains
    assert changed.data.num_steps == steps
    assert steps * changed.data.step_size**2 == pytest.approx(10 * 0.7**2)
    assert changed.posterior == chains.posterior


def test_every_row_of_changed_chains_changes_what_it_names(tiny_model):
    weights = Weights({}, base_prior.standard(2, tiny_model.num_latents))
    settings = SamplerSettings(
        Chains(*3 * [Chain(10, 0.7)]), False, True, conditional_steps=10, candidates=4
    )
    sampler = Sampler(tiny_model, weights, settings)
    found = {name: change(sampler).settings for name, change in parts.changed_chains().items()}
    assert found.pop("as configured") == settings
    same = [settings, *found.values()]
    assert len(set(same)) == len(same)
    for name, changed in found.items():
        part = name.split(",")[0].split()[0]
        for chain in ("posterior", "data"):
            is_changed = getattr(changed.chains, chain) != getattr(settings.chains, chain)
            assert is_changed == (part == chain), name
        time = changed.chains.data.num_steps * changed.chains.data.step_size**2 / 2
        factor = {"data chain, half the time": 0.5, "data chain, twice the time": 2.0}.get(name, 1)
        assert time == pytest.approx(factor * 2.45), name


def test_private_latents_of_one_gaussian_do_not_depend_on_the_shared_latent():
    shapes = base_prior.PrivateShapes(("a",), 2, 2)
    prior = base_prior.standard(3, 2, private=shapes)
    private = prior.private["a"]._replace(mean=jnp.arange(12.0).reshape(6, 2))
    prior = prior._replace(mean=jnp.array([[-5.0, 0], [0, 0], [5, 0]]), private={"a": private})
    shared = jnp.array([[-5.0, 0], [5, 0]])

    def log_prob(prior):
        latents = base_prior.Latents(shared, {"a": jnp.zeros([2, 2])})
        return base_prior.private_log_prior(prior, "gaussian", latents)["a"]

    before, after = log_prob(prior), log_prob(parts.one_gaussian(prior))

    assert abs(before[0] - before[1]) > 1
    np.testing.assert_allclose(after[0], after[1], rtol=1e-5)


def test_rows_that_were_measured_survive_an_interruption(tmp_path, monkeypatch, parsed_flags):
    def one_row(workdir, num_samples, table, weights):
        yield {"method": "all parts", "seed": 0, "joint_coherence": {}, "frechet": {}}
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "rows_of", one_row)
    monkeypatch.setattr(parts, "check", lambda *arguments: None)
    path = tmp_path / "parts.json"
    with (
        flagsaver.flagsaver(runs=["a", "b"], change="parts", results=str(path)),
        pytest.raises(KeyboardInterrupt),
    ):
        parts.main()
    written = results.read(path)
    assert [row["method"] for row in written["rows"]] == ["all parts"]
    assert "--runs=a,b" in written["command"]
