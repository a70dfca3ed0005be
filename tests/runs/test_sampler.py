"""What a sampler accepts, refuses and returns; see also `tests/method/test_sampling.py`."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.distributions.base_prior import standard
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.networks import Chains
from mmebm_jax.method.sampling import SamplerSettings
from mmebm_jax.method.train_state import Weights
from mmebm_jax.modalities.text import SPECIAL
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.typing import Latents

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


# --- arguments --------------------------------------------------------------------------------

PHOTO = np.linspace(0, 1, 2 * 64, dtype=np.float32).reshape(2, 8, 8, 1)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (PHOTO, r"'picture' has no value below 0 and looks like \[0, 1\]: give uint8"),
        ((PHOTO > 0.5).astype(np.uint8), r"'picture' is uint8 with no value above 1.*by 255"),
        (PHOTO * 255, r"'picture' leaves \[-1, 1\]: scale it, or give uint8"),
        (PHOTO * np.nan, "'picture' holds NaN"),
        (PHOTO - np.inf, "'picture' holds infinite values"),
        (PHOTO + np.inf, "'picture' holds infinite values"),
    ],
)
def test_values_of_another_range_are_refused(sampler, convert, values, message):
    given = {"picture": convert(values)}
    for function in (
        sampler.as_batch,
        sampler.encode,
        lambda given: sampler.energy(given | {"text": np.zeros([2, 3], int)}),
        lambda given: sampler.sample(jax.random.key(0), given=given),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            function(given)
        assert "\n" not in str(caught.value)


def test_values_of_model_range_pass_and_others_where_they_are_meant(sampler):
    np.testing.assert_array_equal(
        sampler.as_batch({"picture": 2 * PHOTO - 1})["picture"], 2 * PHOTO - 1
    )
    meant = {"picture": PHOTO}
    np.testing.assert_array_equal(sampler.as_batch(meant, check_values=False)["picture"], PHOTO)
    samples = sampler.sample(jax.random.key(0), given=meant, check_values=False)
    np.testing.assert_array_equal(samples["picture"], PHOTO)
    assert sampler.encode(meant, check_values=False).shape == (2, 3)


def test_codes_are_the_inferred_means(private_sampler, raw):
    for names in (("picture",), ("text",), ("picture", "text")):
        given = {name: raw[name] for name in names}
        batch = private_sampler.as_batch(given)
        inferred = private_sampler.infer(jax.random.key(5), batch, method="mean").shared
        np.testing.assert_allclose(private_sampler.encode(given), inferred, atol=1e-6)


@pytest.mark.parametrize(
    ("alphabet", "lines", "tokens"),
    [
        ("abcd", ["ab", "cda"], [[0, 1, 0], [2, 3, 0]]),
        ((*SPECIAL, "bird"), ["Bird", "bird bird"], [[3, 1, 0], [3, 3, 1]]),
    ],
)
def test_texts_are_taken_and_read_as_they_are_written(tiny_model, weights, alphabet, lines, tokens):
    assert SPECIAL == ("<pad>", "<eos>", "<unk>")
    sampler = Sampler(tiny_model, weights, SETTINGS, alphabet=alphabet)
    key, as_tokens = jax.random.key(0), np.array(tokens, np.int32)
    for texts in (lines, np.array(lines), np.array(lines, object)):
        drawn = sampler.sample(key, num_samples=2, given={"text": texts})
        expected = sampler.sample(key, num_samples=2, given={"text": as_tokens})
        np.testing.assert_array_equal(drawn["picture"], expected["picture"])
        np.testing.assert_array_equal(sampler.as_raw(drawn)["text"][:, 0], as_tokens)
    read = sampler.as_sentences(drawn)["text"]
    assert read == [
        [line.ljust(3, "a") if alphabet == "abcd" else line.lower()] * 2 for line in lines
    ]
    assert sampler.as_sentences(sampler.as_raw(drawn))["text"] == read
    same = sampler.with_chains(data=Chain(1, 0.1)).with_weights(weights, SETTINGS)
    assert same.as_sentences(drawn) == {"text": read}


@pytest.mark.parametrize(
    ("alphabet", "lines", "said"),
    [
        ("abcd", ["abx"], "modality 'text': 'x' is none of 'abcd': leave it out."),
        ("abcd", ["abcd"], "modality 'text': it has 4 characters: give at most 3."),
        ((*SPECIAL, "bird"), ["bird", "cat"], "'cat' holds a word that this model never saw"),
        ((*SPECIAL, "bird"), ["bird bird bird"], "too long: give at most 2 words and marks."),
        ("", ["bird"], "does not know what its tokens stand for: give token numbers."),
        ("abcd", "ab", "modality 'text' has dtype <U2: give strings, int tokens or"),
        ("abcd", ["ab", 3], "modality 'text' has dtype <U2"),
        ("abcd", np.array("ab"), "modality 'text' has dtype <U2"),
        ("abcd", np.array([["ab"]]), "modality 'text' has dtype <U2"),
        ("abcd", np.array([], "U1"), "modality 'text' has dtype <U1"),
    ],
)
def test_a_text_that_cannot_be_taken_is_one_line(tiny_model, weights, alphabet, lines, said):
    sampler = Sampler(tiny_model, weights, SETTINGS, alphabet=alphabet)
    with pytest.raises(ValueError, match=said.replace("(", "\\(")) as raised:
        sampler.sample(jax.random.key(0), given={"text": lines})
    assert "\n" not in str(raised.value)


def test_tokens_without_an_alphabet_are_not_read(sampler, raw):
    with pytest.raises(ValueError, match="does not know what the tokens of text stand for"):
        sampler.as_sentences(sampler.sample(jax.random.key(0), 2))


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 5), (2, 2, 2, 3, 4)])
def test_texts_of_another_shape_are_not_read(tiny_model, weights, shape):
    sampler = Sampler(tiny_model, weights, SETTINGS, alphabet="abcd")
    with pytest.raises(ValueError, match=r"modality 'text' has shape .*: give \[N, 3, 4\]"):
        sampler.as_sentences({"text": np.zeros(shape, np.float32)})


def test_energies_and_codes_can_be_differentiated(sampler, raw):
    """Inside a transformation values cannot be checked, and need not be."""
    batch = sampler.as_batch(raw)
    gradient = jax.grad(lambda batch: sampler.energy(batch).sum())(batch)
    assert all(float(abs(values).max()) > 0 for values in gradient.values())


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"num_samples": 0}, ValueError, "num_samples is 0: give 1 to 1048576"),
        ({"num_samples": -2}, ValueError, "num_samples is -2"),
        ({"num_samples": 2**40}, ValueError, "num_samples is 1099511627776"),
        ({"num_samples": True}, TypeError, "num_samples is True: give a whole number"),
        ({"num_samples": 2.0}, TypeError, r"num_samples is 2\.0: give a whole number"),
        ({"num_samples": "3"}, TypeError, "num_samples is '3'"),
        ({"num_steps": -1}, ValueError, "num_steps is -1: give 0 to 1000000"),
        ({"num_steps": 2**40}, ValueError, "num_steps is 1099511627776"),
        ({"num_steps": True}, TypeError, "num_steps is True"),
        ({"num_steps": 1.5}, TypeError, r"num_steps is 1\.5"),
        ({"given": {}}, ValueError, "given holds no modality: give any of picture, text"),
        ({"given": [PHOTO]}, TypeError, "given is a list: give a dict"),
        ({"given": {"picture": [[1], [1, 2]]}}, ValueError, "'picture' is no array"),
        (
            {"given": {"picture": 2 * PHOTO - 1, "text": np.zeros([3, 3], int)}},
            ValueError,
            "different numbers of examples: {'picture': 2, 'text': 3}",
        ),
        (
            {"given": {"picture": 2 * PHOTO - 1}, "num_samples": 2**20},
            ValueError,
            "num_samples is 1048576 for each of 2 examples: draw at most 1048576",
        ),
        ({"key": 0}, TypeError, r"key is 0: give a typed PRNG key, as jax\.random\.key\(0\)"),
        ({"key": jax.random.PRNGKey(0)}, TypeError, r"key is uint32\[2\]: give a typed PRNG key"),
        ({"key": jax.random.split(jax.random.key(0))}, ValueError, r"array of shape \(2,\)"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(sampler, options, kind, message):
    with pytest.raises(kind, match=message) as caught:
        sampler.sample(**({"key": jax.random.key(0)} | options))
    assert "\n" not in str(caught.value)


def test_every_method_checks_its_arguments(sampler, raw):
    key, batch = jax.random.key(0), sampler.as_batch(raw)
    for function in (
        lambda: sampler.prior_latents(key, 0),
        lambda: sampler.prior_chain(key, 0),
        lambda: sampler.refine(key, batch, num_steps=-1),
        lambda: sampler.infer(key, raw, method="mean"),
        lambda: sampler.refine(key, raw),
        lambda: sampler.encode({"picture": raw["picture"], "text": raw["text"][:2]}),
        lambda: sampler.energy({"picture": raw["picture"], "text": raw["text"][:2]}),
    ):
        with pytest.raises(ValueError) as caught:
            function()
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="typed PRNG key"):
        sampler.prior_latents(jax.random.PRNGKey(0), 3)


KEY = jax.random.key(0)
NO_DICT = r"is a (NoneType|list|ndarray): give a dict, name → array, of any of picture, text"
LATENTS = Latents(np.zeros([2, 3], np.float32), {})
BATCH = {"picture": 2 * PHOTO - 1, "text": np.full([2, 3, 4], 0.25, np.float32)}
PICTURE = {"picture": BATCH["picture"]}


@pytest.mark.parametrize("values", [None, [PHOTO], PHOTO], ids=["none", "list", "array"])
@pytest.mark.parametrize(
    "call",
    [
        lambda s, values: s.as_batch(values),
        lambda s, values: s.encode(values),
        lambda s, values: s.energy(values),
        lambda s, values: s.as_raw(values),
        lambda s, values: s.infer(KEY, values, method="mean"),
        lambda s, values: s.refine(KEY, values),
        lambda s, values: s.posterior_chain(KEY, LATENTS, values),
    ],
)
def test_what_is_no_dict_is_refused_in_one_line(sampler, call, values):
    with pytest.raises(TypeError, match=NO_DICT) as caught:
        call(sampler, values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda s: s.encode({}), ValueError, "batch holds no modality: give any of picture, text"),
        (lambda s: s.infer(KEY, {}, method="mean"), ValueError, "given holds no modality"),
        (lambda s: s.refine(KEY, {}), ValueError, "samples holds no modality"),
        (lambda s: s.posterior_chain(KEY, LATENTS, {}), ValueError, "given holds no modality"),
        (lambda s: s.energy({}), ValueError, r"missing: \['picture', 'text'\]"),
        (
            lambda s: s.refine(KEY, PICTURE),
            ValueError,
            r"needs every modality; missing: \['text'\]",
        ),
        (lambda s: s.refine(KEY, BATCH, given=BATCH), ValueError, "given holds every modality"),
        (lambda s: s.refine(KEY, BATCH, given=[PHOTO]), TypeError, "given is a list: give a dict"),
        (
            lambda s: s.refine(KEY, BATCH | {"text": BATCH["text"][:1]}),
            ValueError,
            "different numbers of examples",
        ),
        (
            lambda s: s.infer(KEY, {"picture": PHOTO.tolist()}, method="mean"),
            ValueError,
            "'picture' is a list: give an array in model range, as as_batch returns",
        ),
        (
            lambda s: s.infer(KEY, PICTURE, method="best"),
            ValueError,
            "method is 'best': choose one",
        ),
        (lambda s: s.infer(KEY, PICTURE, method=["mean"]), ValueError, r"method is \['mean'\]"),
        (
            lambda s: s.infer(KEY, PICTURE, method="mean", mask={"sound": np.ones(2, bool)}),
            ValueError,
            "mask has the unknown modality 'sound': this model has picture, text",
        ),
        (
            lambda s: s.infer(KEY, PICTURE, method="mean", mask={"picture": np.ones(3, bool)}),
            ValueError,
            r"mask\['picture'\] is bool\[3\]: give bool\[2\]",
        ),
        (
            lambda s: s.infer(KEY, PICTURE, method="mean", mask={"picture": [1.0, 0.0]}),
            ValueError,
            r"mask\['picture'\] is list: give bool\[2\]",
        ),
        (
            lambda s: s.infer(KEY, PICTURE, method="mean", mask=[True, False]),
            TypeError,
            "mask is a list: give a dict",
        ),
        (lambda s: s.generate(None), TypeError, "latents is a NoneType: give Latents"),
        (lambda s: s.posterior_chain(KEY, {}, PICTURE), TypeError, "latents is a dict: give"),
        (lambda s: s.with_chains(data=3), TypeError, "data is 3: give a Chain"),
        (lambda s: s.with_chains(dtaa=Chain(1, 0.1)), ValueError, "unknown chain 'dtaa': choose"),
        (lambda s: s.with_chains(data=Chain(-1, 0.1)), ValueError, r"data.num_steps is -1: give 0"),
        (lambda s: s.with_chains(prior=Chain(1.5, 1)), TypeError, r"prior.num_steps is 1\.5"),
        (lambda s: s.with_chains(data=Chain(1, "a")), TypeError, "data.step_size is 'a'"),
        (lambda s: s.with_chains(data=Chain(1, -0.1)), ValueError, "data.step_size is -0.1: give"),
        (
            lambda s: s.with_chains(data=Chain(1, 0.1, temperature=np.nan)),
            ValueError,
            "data.temperature is nan: give a finite number of at least 0",
        ),
        (
            lambda s: s.with_chains(data=Chain(1, 0.1, 1.0, None)),
            TypeError,
            "gradient_clip is None",
        ),
        (lambda s: s.with_posterior_steps(-1), ValueError, "num_steps is -1: give 0 to 1000000"),
        (lambda s: s.with_posterior_steps(10**9), ValueError, "num_steps is 1000000000"),
        (lambda s: s.with_posterior_steps(1.5), TypeError, r"num_steps is 1\.5: give a whole"),
        (lambda s: s.with_posterior_steps("2"), TypeError, "num_steps is '2': give a whole"),
        (lambda s: s.with_sampling_time(np.inf), ValueError, "time is inf: give a finite number"),
        (lambda s: s.with_sampling_time(np.nan), ValueError, "time is nan: give a finite number"),
        (lambda s: s.with_sampling_time(1e30), ValueError, r"above 0 and at most 1e\+06"),
        (lambda s: s.with_sampling_time(10**400), ValueError, "time is a number of 1329 bits"),
        (lambda s: s.with_sampling_time(0.0), ValueError, r"time is 0\.0: give a finite number"),
        (
            lambda s: s.with_sampling_time(-1),
            ValueError,
            "time is -1: give a finite number above 0",
        ),
        (lambda s: s.with_sampling_time("2"), TypeError, "time is '2': give a number"),
        (lambda s: s.with_sampling_time(np.ones(1)), TypeError, "time is array"),
        (
            lambda s: s.with_chains(data=Chain(0, 0.1)).with_sampling_time(1.0),
            ValueError,
            "the data chain has no steps: set some with with_chains",
        ),
    ],
)
def test_bad_arguments_of_other_methods_are_refused_in_one_line(sampler, call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        call(sampler)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("configured", [0, 2])
def test_completions_take_the_posterior_steps_that_are_set(private_sampler, raw, configured):
    settings = SETTINGS._replace(conditional_steps=configured)
    run = private_sampler.with_weights(private_sampler.weights, settings)
    given, key = private_sampler.as_batch({"picture": raw["picture"]}), jax.random.key(0)
    for num_steps in (0, 3):
        told = settings._replace(conditional_steps=num_steps)
        expected = run.with_weights(run.weights, told).sample(key, given=given, num_steps=0)
        drawn = run.with_posterior_steps(num_steps).sample(key, given=given, num_steps=0)
        np.testing.assert_array_equal(drawn["text"], expected["text"])
    other = run.with_posterior_steps(3).sample(key, given=given, num_steps=0)
    assert (other["text"] != run.sample(key, given=given, num_steps=0)["text"]).any()


def test_whole_numbers_of_numpy_and_jax_are_taken(sampler):
    one, *others = (
        sampler.sample(jax.random.key(0), count, num_steps=0)["picture"]
        for count in (2, np.int64(2), jnp.asarray(2))
    )
    for other in others:
        np.testing.assert_array_equal(one, other)


def test_steps_need_an_energy_to_descend(tiny_model, weights):
    without = Sampler(tiny_model, weights, SETTINGS._replace(data_energy=False))
    with pytest.raises(ValueError, match="num_steps is 3, but this run learned no data"):
        without.sample(jax.random.key(0), num_steps=3)
    without.sample(jax.random.key(0), num_steps=0)


# --- several draws ----------------------------------------------------------------------------


@pytest.mark.parametrize(("num_samples", "leading"), [(None, (5,)), (1, (5, 1)), (3, (5, 3))])
def test_num_samples_counts_the_draws_for_each_given_example(
    private_sampler, raw, num_samples, leading
):
    given = {"picture": raw["picture"]}
    samples = private_sampler.sample(jax.random.key(0), num_samples, given)
    assert samples["picture"].shape == (*leading, 8, 8, 1)
    assert samples["text"].shape == (*leading, 3, 4)
    back = private_sampler.as_raw(samples)
    assert back["text"].shape == (*leading, 3)
    draws = back["picture"].reshape(5, -1, 8, 8, 1)
    for index in range(draws.shape[1]):
        np.testing.assert_array_equal(draws[:, index], raw["picture"])
    if num_samples == 3:
        text = np.asarray(samples["text"])
        assert all((text[:, i] != text[:, j]).any() for i, j in ((0, 1), (0, 2), (1, 2)))


def test_each_row_of_draws_belongs_to_its_example(sampler, raw):
    """Draws follow their input: their mean code is closest to that of their own example."""
    pictures = np.stack([np.zeros([8, 8, 1], np.uint8), np.full([8, 8, 1], 255, np.uint8)])
    samples = sampler.sample(jax.random.key(0), 4, {"picture": pictures}, num_steps=0)
    codes = sampler.encode({"picture": pictures})
    for index in range(2):
        rows = {"picture": samples["picture"][index]}
        expected = jnp.broadcast_to(codes[index], (4, 3))
        np.testing.assert_allclose(
            sampler.encode(rows, check_values=False), expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("candidates", [1, 3])
def test_stages_end_with_the_samples(tiny_model, weights, candidates):
    chosen_among = Sampler(tiny_model, weights, SETTINGS._replace(candidates=candidates))
    key = jax.random.key(3)
    stages = chosen_among.stages(key, 4)
    samples = chosen_among.sample(key, 4)
    for name, values in samples.items():
        np.testing.assert_array_equal(stages.chosen[name], values)
        assert stages.generated[name].shape == stages.refined[name].shape == values.shape
        assert (np.asarray(stages.generated[name]) != np.asarray(stages.refined[name])).any()
    same = [
        bool((stages.chosen["picture"][i] == stages.refined["picture"][i]).all()) for i in range(4)
    ]
    assert all(same) if candidates == 1 else not all(same)
    unrefined = chosen_among.stages(key, 4, num_steps=0)
    np.testing.assert_array_equal(unrefined.generated["picture"], unrefined.chosen["picture"])


def test_a_chain_of_another_time_has_as_many_steps(tiny_model, weights):
    sampler = Sampler(tiny_model, weights, SETTINGS)
    before = SETTINGS.chains.data
    after = sampler.with_sampling_time(3.0).settings.chains.data
    assert after == before._replace(step_size=after.step_size)
    assert after.num_steps * after.step_size**2 / 2 == pytest.approx(3.0)


# --- energies outside the range of training ---------------------------------------------------


def test_a_chain_that_leaves_the_usual_energies_is_said(tiny_model, weights):
    """The steps are long and cold, so more of them descend further than the configured number."""
    chain = Chain(num_steps=2, step_size=2.0, temperature=0.0)
    chains = SETTINGS.chains._replace(data=chain)
    steep = Sampler(tiny_model, weights, SETTINGS._replace(chains=chains))
    low, high = steep.usual_energies()
    with pytest.warns(RuntimeWarning, match="refinement of 200 steps left the energies") as caught:
        samples = steep.sample(jax.random.key(1), 8, num_steps=200)
    assert "\n" not in str(caught[0].message)
    assert float(steep.energy(samples, check_values=False).mean()) < low < high
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for num_steps in (None, 0, 1, 2):
            steep.sample(jax.random.key(1), 8, num_steps=num_steps)


def test_energies_of_data_count_as_seen(tiny_model, weights):
    sampler = Sampler(tiny_model, weights, SETTINGS)
    low, high = sampler.usual_energies()
    longer = SETTINGS.chains.data.num_steps + 1
    inside, outside = np.full(20, (low + high) / 2), np.full(20, high + 1)
    assert sampler.energy_warning(inside, longer) == ""
    assert "100% of the samples" in sampler.energy_warning(outside, longer)
    assert sampler.energy_warning(outside, longer, seen=[high + 2]) == ""
    assert sampler.energy_warning(outside, longer - 1) == ""
    one = np.concatenate([inside[:19], outside[:1]])
    assert sampler.energy_warning(one, longer) == ""
    assert "100% of the samples" in sampler.energy_warning(outside * np.nan, longer)
