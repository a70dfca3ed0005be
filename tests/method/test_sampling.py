import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.distributions.base_prior import Mixture, standard
from mmebm_jax.method import sampling
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.networks import Chains
from mmebm_jax.method.sampling import SamplerSettings, Trained
from mmebm_jax.method.train_state import Weights
from mmebm_jax.runs.sampler import Sampler

pytestmark = pytest.mark.usefixtures("quick_compilation")
SETTINGS = SamplerSettings(
    chains=Chains(
        posterior=Chain(3, 0.1),
        prior=Chain(2, 0.2),
        data=Chain(3, 0.4, temperature=1e-3),
        prior_candidates=3,
    ),
    prior_energy=True,
    data_energy=True,
)


def make_weights(model):
    return Weights(jax.jit(model.init)(jax.random.key(0)), standard(2, model.num_latents))


@pytest.fixture(scope="module")
def weights(tiny_model):
    return make_weights(tiny_model)


@pytest.fixture(scope="module")
def private_sampler(private_model):
    weights = make_weights(private_model)
    # Biases start at zero: move all parameters away from their start.
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + np.asarray(0.3 * rng.normal(size=leaf.shape), np.float32),
        weights.params,
    )
    return Sampler(private_model, weights._replace(params=params), SETTINGS)


@pytest.fixture(scope="module")
def sampler(tiny_model, weights):
    return Sampler(tiny_model, weights, SETTINGS)


@pytest.fixture(scope="module")
def raw():
    rng = np.random.default_rng(0)
    return {
        "picture": rng.integers(256, size=(5, 8, 8, 1)).astype(np.uint8),
        "text": rng.integers(4, size=(5, 3)).astype(np.int32),
    }


def assert_valid(samples, count):
    assert {name: values.shape for name, values in samples.items()} == {
        "picture": (count, 8, 8, 1),
        "text": (count, 3, 4),
    }
    assert all(np.isfinite(values).all() for values in samples.values())
    assert all(values.dtype == jnp.float32 for values in samples.values())
    assert -1.05 <= float(samples["picture"].min()) <= float(samples["picture"].max()) <= 1.05
    assert 0 <= float(samples["text"].min()) <= float(samples["text"].max()) <= 1


def test_joint_samples(sampler):
    samples, again, other = (sampler.sample(jax.random.key(seed), 3) for seed in (0, 0, 1))
    assert_valid(samples, 3)
    for name, values in samples.items():
        np.testing.assert_array_equal(values, again[name])
        assert (values != other[name]).any()
        assert (values[0] != values[1]).any()


def test_no_refinement_is_the_generator_alone(sampler, tiny_model, weights):
    plain = sampler.sample(jax.random.key(0), 3, num_steps=0)
    refined = sampler.sample(jax.random.key(0), 3)
    without = Sampler(tiny_model, weights, SETTINGS._replace(data_energy=False))
    np.testing.assert_allclose(plain["text"].sum(-1), 1, rtol=1e-5)
    for name, values in plain.items():
        assert (values != refined[name]).any()
        np.testing.assert_allclose(
            values, without.sample(jax.random.key(0), 3)[name], rtol=1e-5, atol=1e-6
        )


def test_the_data_energy_chooses_among_refined_candidates(sampler, raw):
    """A cold choice takes each sample's lowest-energy candidate; a hot one may take any."""
    key, picture = jax.random.key(3), {"picture": raw["picture"]}

    def drawn(candidates, temperature, **options):
        # The other kind's temperature would choose at random.
        kinds = {"candidate_temperature": 1e6, "completion_temperature": 1e6}
        kinds["completion_temperature" if "given" in options else "candidate_temperature"] = (
            temperature
        )
        settings = SETTINGS._replace(candidates=candidates, **kinds)
        return sampler.with_weights(sampler.weights, settings).sample(key, **options)

    for options, count in (({"num_samples": 4}, 4), ({"given": picture}, 5)):
        repeated = {n: np.repeat(v, 3, 0) for n, v in options.get("given", {}).items()}
        pool = {"given": repeated} if repeated else {"num_samples": 12}
        energies = np.asarray(sampler.energy(sampler.sample(key, **pool))).reshape(count, 3)
        cold = sampler.energy(drawn(3, 1e-6, **options))
        np.testing.assert_allclose(cold, energies.min(axis=1), rtol=1e-4)
        hot = np.asarray(sampler.energy(drawn(3, 1e6, **options)))
        assert np.isclose(hot[:, None], energies, rtol=1e-4).any(axis=1).all()
        assert np.asarray(cold).mean() < hot.mean()
        # Without refinement there are no candidates.
        unrefined = drawn(3, 1e-6, num_steps=0, **options)
        chex.assert_trees_all_equal(unrefined, sampler.sample(key, num_steps=0, **options))


@pytest.mark.parametrize("names", [("picture",), ("text",), ("picture", "text")])
def test_given_modalities_come_back_unchanged(sampler, raw, names):
    given = {name: raw[name] for name in names}
    samples = sampler.sample(jax.random.key(0), given=given)
    assert_valid(samples, 5)
    for name in names:
        np.testing.assert_array_equal(samples[name], sampler.as_batch(given)[name])
        np.testing.assert_array_equal(sampler.as_raw(samples)[name], raw[name])


def test_what_is_given_decides_the_others(sampler, raw):
    one = sampler.sample(jax.random.key(0), given={"picture": raw["picture"]})
    other = sampler.sample(jax.random.key(0), given={"picture": 255 - raw["picture"]})
    assert (one["text"] != other["text"]).any()


def test_raw_values_round_trip(sampler, raw):
    every = raw | {"picture": np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)}
    batch = sampler.as_batch(every)
    assert batch["picture"].dtype == batch["text"].dtype == jnp.float32
    assert (float(batch["picture"].min()), float(batch["picture"].max())) == (-1, 1)
    np.testing.assert_array_equal(batch["text"].sum(-1), np.ones([5, 3]))
    back = sampler.as_raw(batch)
    for name, values in every.items():
        assert back[name].dtype == values.dtype
        np.testing.assert_array_equal(back[name], values)
    again = sampler.as_batch({name: np.asarray(values) for name, values in batch.items()})
    for name, values in batch.items():
        np.testing.assert_array_equal(again[name], values)


def test_as_raw_clips_rounds_and_takes_the_likeliest(sampler):
    picture = np.full([1, 8, 8, 1], 1.05, np.float32)
    picture[0, 0, 0, 0], picture[0, 0, 1, 0] = -1.05, 0.0
    text = np.array([[[0.1, 0.2, 0.4, 0.3], [0.9, 0, 0, 0.1], [0, 0.1, 0.1, 0.8]]])
    raw = sampler.as_raw({"picture": picture, "text": text})
    assert raw["picture"].ravel()[:3].tolist() == [0, 128, 255]
    assert raw["text"].tolist() == [[2, 0, 3]]


def test_encode_is_the_mean_of_what_is_given(sampler, raw):
    each = [sampler.encode({name: values}) for name, values in raw.items()]
    assert each[0].shape == (5, 3)
    np.testing.assert_allclose(sampler.encode(raw), (each[0] + each[1]) / 2, rtol=1e-4, atol=1e-5)
    assert abs(each[0] - each[1]).max() > 0.01


def test_inferred_latents_depend_on_the_method(sampler, raw):
    batch = sampler.as_batch({"picture": raw["picture"]})
    results = [
        sampler.infer(jax.random.key(0), batch, method=method)
        for method in ("mean", "sample", "revised")
    ]
    assert all(result.private == {} for result in results)
    latents = [np.asarray(result.shared) for result in results]
    assert all(values.shape == (5, 3) for values in latents)
    assert all((latents[i] != latents[j]).all() for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_energy_is_that_of_the_normalised_network(sampler, tiny_model, weights, raw):
    batch = sampler.as_batch(raw)
    energies = sampler.energy(raw)
    expected = tiny_model.data_energy(tiny_model.normalised(weights.params["energy"]), batch)
    assert energies.shape == (5,)
    np.testing.assert_allclose(energies, expected, rtol=1e-4, atol=1e-5)
    free = tiny_model.data_energy(weights.params["energy"], batch)
    assert abs(free - expected).max() > 1e-3


def test_refinement_holds_what_is_given_and_ends_with_its_trajectory(sampler, raw):
    batch = sampler.as_batch(raw)
    result = sampler.refine(
        jax.random.key(0),
        batch,
        given={"text": batch["text"]},
        num_steps=4,
        keep_trajectory=True,
    )
    assert set(result.position) == set(result.trajectory) == {"picture"}
    assert result.trajectory["picture"].shape == (4, 5, 8, 8, 1)
    np.testing.assert_array_equal(result.trajectory["picture"][-1], result.position["picture"])
    np.testing.assert_allclose(result.info.energy[0], sampler.energy(raw), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", [None, "picture", "text"])
def test_held_tokens_are_sampled_as_the_generator_draws_them(sampler, raw, given):
    chains = SETTINGS.chains._replace(tokens="held")
    holding = sampler.with_weights(sampler.weights, SETTINGS._replace(chains=chains))
    batch = None if given is None else {given: raw[given]}
    generated, refined = (
        holding.sample(jax.random.key(0), 5 if batch is None else None, batch, num_steps=n)
        for n in (0, None)
    )
    likeliest = np.eye(4, dtype="f4")[np.argmax(generated["text"], axis=-1)]
    np.testing.assert_array_equal(refined["text"], likeliest)
    moved = np.any(generated["picture"] != refined["picture"], axis=(1, 2, 3))
    assert moved.all() == moved.any() == (given != "picture")
    # The gradient is that of the moving modalities.
    batch = None if batch is None else {given: generated[given]}
    chain = holding.refine(jax.random.key(0), generated, given=batch, keep_trajectory=True)
    assert np.all((chain.info.gradient_norm > 0) == (given != "picture"))
    free = {"picture", "text"} - {given}
    assert chain.position.keys() == chain.trajectory.keys() == free
    for name in free:
        np.testing.assert_array_equal(chain.trajectory[name][-1], chain.position[name])


def test_the_prior_without_energy_is_its_base(sampler):
    base = np.asarray(sampler.prior_latents(jax.random.key(0), 5000, use_energy=False).shared)
    np.testing.assert_allclose(base.mean(0), 0, atol=4 / np.sqrt(5000))
    np.testing.assert_allclose(base.std(0), 1, atol=4 / np.sqrt(10_000))
    learned = np.asarray(sampler.prior_latents(jax.random.key(0), 5000).shared)
    assert (base != learned).all()


def test_too_many_candidates_are_refused_before_anything_is_drawn(sampler):
    four = sampler.with_weights(sampler.weights, SETTINGS._replace(candidates=4))
    with pytest.raises(ValueError, match="each chosen among 4: draw at most 262144 at a time"):
        four.sample(jax.random.key(0), 2**19)


def test_draws_of_z_have_a_temperature_that_inference_does_not_know(private_sampler, raw):
    key, given = jax.random.key(1), {"picture": private_sampler.as_batch(raw)["picture"]}
    settings = SETTINGS._replace(prior_energy=False)
    cold = settings._replace(chains=settings.chains._replace(shared_temperature=0.25))
    usual, cooled = (
        private_sampler.with_weights(private_sampler.weights, each) for each in (settings, cold)
    )
    ours, theirs = (model.prior_latents(key, 7) for model in (usual, cooled))
    np.testing.assert_allclose(theirs.shared, 0.5 * ours.shared, rtol=1e-5)  # p_0 is N(0, I) here
    chex.assert_trees_all_equal(theirs.private, ours.private)
    revised = [model.infer(key, given, method="revised") for model in (usual, cooled)]
    chex.assert_trees_all_equal(*revised)


def test_prior_latents_have_private_ones_of_their_prior(private_sampler, private_model):
    latents = private_sampler.prior_latents(jax.random.key(0), 5000)
    assert latents.shared.shape == (5000, private_model.num_latents)
    assert list(latents.private) == ["picture", "text"]
    every = np.concatenate([latents.shared, *latents.private.values()], axis=1)
    np.testing.assert_allclose(every.mean(0)[3:], 0, atol=4 / np.sqrt(5000))
    covariance = np.cov(every.T)
    np.testing.assert_allclose(np.diag(covariance)[3:], 1, atol=4 * np.sqrt(2 / 5000))
    np.testing.assert_allclose(covariance[3:, :5], np.eye(7)[3:, :5], atol=0.1)


def test_private_latents_come_from_what_is_given_or_from_the_prior(
    private_sampler, private_model, raw
):
    count = 4000
    given = private_sampler.as_batch({"picture": np.repeat(raw["picture"][:1], count, axis=0)})
    latents = private_sampler.infer(jax.random.key(0), given, method="sample")
    own = private_model.encode(
        private_sampler.weights.params["inference"],
        {"picture": given["picture"][:1], "text": jnp.zeros([1, 3, 4])},
    ).private["picture"]
    assert abs(own.location).min() > 0.02
    assert abs(own.scale - 1).min() > 0.05
    error = 4 / np.sqrt(count)
    for values, location, scale in (
        (latents.private["picture"], *own),
        (latents.private["text"], jnp.zeros([1, 2]), jnp.ones([1, 2])),
    ):
        standardised = (np.asarray(values) - location) / scale
        np.testing.assert_allclose(standardised.mean(0), 0, atol=error)
        np.testing.assert_allclose(standardised.std(0), 1, atol=error)


def test_two_draws_given_one_modality_differ_through_the_others_private_latent(
    private_sampler, raw
):
    given = private_sampler.as_batch({"picture": raw["picture"]})
    one, other = (
        private_sampler.infer(jax.random.key(seed), given, method="mean") for seed in (0, 1)
    )
    np.testing.assert_array_equal(one.shared, other.shared)
    np.testing.assert_array_equal(one.private["picture"], other.private["picture"])
    assert (one.private["text"] != other.private["text"]).all()
    left, right = map(private_sampler.generate, (one, other))
    np.testing.assert_array_equal(left["picture"], right["picture"])
    assert (left["text"] != right["text"]).any(axis=(1, 2)).all()


def test_a_mask_says_what_each_example_has(private_sampler, raw):
    """As if the rest were not given; without noise, and with a prior that does not tie w to z."""
    chains = SETTINGS.chains._replace(posterior=SETTINGS.chains.posterior._replace(temperature=0.0))
    sampler = private_sampler.with_weights(
        private_sampler.weights, SETTINGS._replace(chains=chains)
    )
    batch = sampler.as_batch(raw)
    mask = {"picture": jnp.array([1, 1, 0, 1, 0], bool), "text": jnp.array([1, 0, 1, 0, 1], bool)}
    hidden = {
        name: jnp.where(seen.reshape(-1, *[1] * (batch[name].ndim - 1)), batch[name], 0.5)
        for name, seen in mask.items()
    }

    def infer(given, **options):
        return sampler.infer(jax.random.key(0), given, method="revised", **options)

    masked = infer(batch, mask=mask)
    jax.tree.map(np.testing.assert_array_equal, infer(hidden, mask=mask), masked)
    alone = {name: infer({name: batch[name]}) for name in batch}
    for pattern, expected in (
        ([True, True], infer(batch)),
        ([True, False], alone["picture"]),
        ([False, True], alone["text"]),
    ):
        rows = np.all(np.stack([mask["picture"], mask["text"]], 1) == pattern, axis=1)
        assert rows.any()
        jax.tree.map(
            lambda got, want, rows=rows: np.testing.assert_allclose(
                got[rows], want[rows], rtol=1e-4, atol=1e-5
            ),
            masked,
            expected,
        )


def test_revision_moves_private_latents_too(private_sampler, raw):
    batch = private_sampler.as_batch({"picture": raw["picture"]})
    sampled, revised = (
        private_sampler.infer(jax.random.key(0), batch, method=method)
        for method in ("sample", "revised")
    )
    for before, after in zip(*map(jax.tree.leaves, (sampled, revised)), strict=True):
        assert (before != after).all()


@pytest.mark.parametrize("is_scaled", [False, True])
def test_the_posterior_chain_alone_is_the_one_that_revises(private_sampler, raw, is_scaled):
    chains = SETTINGS.chains._replace(scaled_posterior=is_scaled)
    settings = SETTINGS._replace(chains=chains)
    sampler = private_sampler.with_weights(private_sampler.weights, settings)
    given, key = sampler.as_batch({"picture": raw["picture"]}), jax.random.key(0)
    start = sampler.infer(key, given, method="sample")
    _, chain_key = jax.random.split(key)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6),
        sampler.posterior_chain(chain_key, start, given).position,
        sampler.infer(key, given, method="revised"),
    )


def away_from_zero(sampler, center, slope=0.0):
    """The sampler with p_0(w | k) = N(center + slope · k, 1) for the k-th component of p_0(z)."""
    base = sampler.weights.base_prior
    count = len(base.log_weight)
    own = Mixture(
        jnp.zeros(count),
        center[None] + slope * jnp.arange(count)[:, None],
        jnp.tile(jnp.eye(len(center)), [count, 1, 1]),
    )
    base = base._replace(
        mean=base.mean + jnp.arange(count, dtype=jnp.float32)[:, None],
        private={"picture": own, "text": own},
    )
    return sampler.with_weights(
        sampler.weights._replace(base_prior=base),
        SETTINGS._replace(chains=SETTINGS.chains._replace(posterior=Chain(20, 0.3, 0.0))),
    )


def test_what_is_missing_is_drawn_from_its_prior_at_the_revised_latent(private_sampler, raw):
    """As p(w | z, x) requires: even a cold chain does not narrow it."""
    center = jnp.array([3.0, -5.0])
    sampler = away_from_zero(private_sampler, center)
    given = sampler.as_batch({"picture": np.repeat(raw["picture"], 400, axis=0)})
    drawn = np.asarray(sampler.infer(jax.random.key(0), given, method="revised").private["text"])
    np.testing.assert_allclose(drawn.mean(0), center, atol=5 / len(drawn) ** 0.5)
    np.testing.assert_allclose(drawn.std(0), 1, rtol=0.1)


def test_the_posterior_chain_does_not_read_private_latents_of_what_is_missing(private_sampler, raw):
    """Although p_0(w | z) ties them to z: given z, the picture says nothing about the text's w."""
    sampler = away_from_zero(private_sampler, jnp.zeros(2), slope=4.0)
    key, given = jax.random.key(0), sampler.as_batch({"picture": raw["picture"]})
    networks = sampling.Trained(sampler.model, sampler.settings, sampler.weights).networks()
    start = sampler.infer(key, given, method="sample")
    other = start._replace(private=start.private | {"text": start.private["text"] + 1.0})
    ends = [networks.revise_posterior(key, one, given).position for one in (start, other)]
    for before, end in zip((start, other), ends, strict=True):
        np.testing.assert_array_equal(end.private["text"], before.private["text"])
    chex.assert_trees_all_equal(ends[0].of(["picture"]), ends[1].of(["picture"]))
    assert (ends[0].shared != start.shared).all()


@pytest.mark.parametrize("num_steps", [0, 5])
def test_completions_draw_what_is_missing_at_their_own_temperature(private_sampler, raw, num_steps):
    """Like a prior with correspondingly narrower Gaussians; joint samples are unaffected."""
    sampler = away_from_zero(private_sampler, jnp.array([3.0, -5.0]))
    settings = sampler.settings._replace(conditional_steps=num_steps)
    base = sampler.weights.base_prior
    narrow = base._replace(
        private={n: own._replace(whitening=own.whitening * 2) for n, own in base.private.items()}
    )
    told = sampler.with_weights(sampler.weights, settings._replace(private_temperature=0.25))
    expected = sampler.with_weights(sampler.weights._replace(base_prior=narrow), settings)
    key, given = jax.random.key(0), {"picture": raw["picture"]}
    chex.assert_trees_all_close(
        told.sample(key, given=given, num_steps=0), expected.sample(key, given=given, num_steps=0)
    )
    plain = sampler.with_weights(sampler.weights, settings)
    chex.assert_trees_all_equal(told.sample(key, 3), plain.sample(key, 3))
    completed = (each.sample(key, given=given, num_steps=0)["text"] for each in (told, plain))
    assert not np.allclose(*completed)


def test_samples_that_are_not_finite_are_refused(sampler, raw):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, sampler.weights.params["generator"])
    weights = sampler.weights._replace(params=sampler.weights.params | {"generator": broken})
    broken = sampler.with_weights(weights, sampler.settings)
    for draw in (
        lambda: broken.sample(jax.random.key(0), 2),
        lambda: broken.sample(jax.random.key(0), given={"picture": raw["picture"]}),
        lambda: broken.stages(jax.random.key(0), 2),
    ):
        with pytest.raises(FloatingPointError, match=r"text hold NaN or infinity: a chain has div"):
            draw()
    jitted = jax.jit(lambda key: broken.sample(key, 2))
    assert np.isnan(jitted(jax.random.key(0))["text"]).all()  # values cannot be checked here


def test_a_sampler_says_what_it_is_of(sampler):
    assert repr(sampler) == (
        "Sampler(picture image [8, 8, 1], text text [3, 4]; data and latent energy)"
    )


def test_draws_of_texts_private_latents_have_a_temperature_of_their_own(private_sampler, raw):
    center = jnp.array([3.0, -5.0])
    sampler = away_from_zero(private_sampler, center)
    settings = sampler.settings._replace(prior_energy=False)
    cold = settings._replace(chains=settings.chains._replace(token_temperature=0.25))
    usual, cooled = (sampler.with_weights(sampler.weights, each) for each in (settings, cold))
    key = jax.random.key(0)
    ours, theirs = (model.prior_latents(key, 7) for model in (usual, cooled))
    away, near = (latents.private["text"] - center[None] for latents in (ours, theirs))
    np.testing.assert_allclose(near, 0.5 * away, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(
        (theirs.shared, theirs.private["picture"]), (ours.shared, ours.private["picture"])
    )
    for name in ("picture", "text"):
        ours, theirs = (
            model.infer(key, {name: model.as_batch(raw)[name]}, method="revised")
            for model in (usual, cooled)
        )
        chex.assert_trees_all_equal(theirs.shared, ours.shared)
        same = {n: bool((theirs.private[n] == ours.private[n]).all()) for n in ours.private}
        assert same == {"picture": True, "text": name == "text"}


@pytest.mark.parametrize("num_steps", [0, 5])
def test_conditional_samples_take_as_many_posterior_steps_as_set(private_sampler, raw, num_steps):
    settings = SETTINGS._replace(conditional_steps=num_steps)
    sampler = private_sampler.with_weights(private_sampler.weights, settings)
    given, key = sampler.as_batch({"picture": raw["picture"]}), jax.random.key(0)
    latents = sampler.with_posterior_steps(num_steps).infer(
        jax.random.split(key)[0], given, method="revised" if num_steps else "sample"
    )
    drawn = sampler.sample(key, given=given, num_steps=0)
    np.testing.assert_allclose(
        drawn["text"], sampler.generate(latents)["text"], rtol=1e-5, atol=1e-6
    )


def test_a_chain_trained_from_noise_ignores_the_generator(sampler, tiny_model, weights, raw):
    batch = sampler.as_batch(raw)
    chains = SETTINGS.chains._replace(data_start="noise")
    from_noise = Sampler(tiny_model, weights, SETTINGS._replace(chains=chains))
    start = from_noise.refine(jax.random.key(0), batch, num_steps=0).position
    for name, values in start.items():
        low, high = (0, 1) if name == "text" else (-1.05, 1.05)
        assert low <= float(values.min()) < float(values.max()) <= high
        assert len(np.unique(values)) == values.size
    given = {"text": batch["text"]}
    one, other = (
        from_noise.refine(jax.random.key(0), values, given=given).position
        for values in (batch, {name: values / 2 for name, values in batch.items()})
    )
    assert set(one) == {"picture"}
    np.testing.assert_array_equal(one["picture"], other["picture"])


PICTURE = np.zeros([2, 8, 8, 1], np.float32)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sound": PICTURE}, "unknown modality 'sound': this model has picture, text"),
        ({"picture": PICTURE[0]}, r"'picture' has shape \(8, 8, 1\): give \[N, 8, 8, 1\]"),
        ({"picture": PICTURE[:, :4]}, r"'picture' has shape \(2, 4, 8, 1\)"),
        ({"text": np.zeros([2, 4], int)}, r"'text' has shape \(2, 4\): give \[N, 3\]"),
        ({"text": np.zeros([2, 3], np.float32)}, r"'text' has shape \(2, 3\): give \[N, 3, 4\]"),
        ({"picture": PICTURE.astype(int)}, "'picture' has dtype int64: give uint8 or float"),
        ({"picture": PICTURE > 0}, "'picture' has dtype bool"),
        ({"text": np.zeros([2, 3], complex)}, "'text' has dtype complex128: give strings, int"),
        ({"picture": np.array([["a"]])}, "'picture' has dtype <U1"),
        ({"picture": PICTURE + 2}, r"'picture' leaves \[-1, 1\]"),
        ({"picture": PICTURE * np.nan}, "'picture' holds NaN"),
        ({"text": np.full([2, 3], 4)}, r"'text' leaves 0\.\.3"),
        ({"text": np.full([2, 3], -1)}, r"'text' leaves 0\.\.3"),
        ({"picture": PICTURE[:0]}, "'picture' holds no example"),
        ({"picture": PICTURE[:0].astype(np.uint8)}, "'picture' holds no example"),
    ],
)
def test_bad_modalities_are_refused_in_one_line(sampler, given, message):
    for function in (sampler.encode, lambda g: sampler.sample(jax.random.key(0), given=g)):
        with pytest.raises(ValueError, match=message) as caught:
            function(given)
        assert "\n" not in str(caught.value)


def test_energy_needs_every_modality_and_a_learned_energy(sampler, tiny_model, weights, raw):
    with pytest.raises(ValueError, match=r"missing: \['text'\]"):
        sampler.energy({"picture": raw["picture"]})
    without = Sampler(tiny_model, weights, SETTINGS._replace(data_energy=False))
    with pytest.raises(ValueError, match="learned no data energy"):
        without.energy(raw)


def test_latents_need_something_given_and_a_known_method(tiny_model, weights, sampler, raw):
    with pytest.raises(ValueError, match="batch holds no modality"):
        sampler.encode({})
    with pytest.raises(ValueError, match="method 'best' is not one of"):
        sampling.infer_latents(
            jax.random.key(0),
            Trained(tiny_model, SETTINGS, weights),
            sampler.as_batch(raw),
            method="best",
        )
