import functools

import jax
import numpy as np
import optax
import pytest

from configs import polydigits
from mmebm_jax.data.source import OBSERVED, ArraySource, DataSplits, Field
from mmebm_jax.method import train_state
from mmebm_jax.method.bounds import Bound
from mmebm_jax.method.model import NETWORKS
from mmebm_jax.runs import builders, schema
from mmebm_jax.runs.template import template

FIELDS = {"m0": Field("image", (16, 16, 3)), "word": Field("text", (8, 27))}


def make_config(variant="full", **changes):
    """A variant with changed fields; in names, two underscores stand for a dot."""
    config = polydigits.get_config(variant)
    config.update_from_flattened_dict({n.replace("__", "."): v for n, v in changes.items()})
    return config


def build(config):
    """Shapes of a new training state."""
    model = builders.build_model(config, FIELDS)
    create = functools.partial(
        train_state.create,
        model=model,
        optimisers=builders.build_optimisers(config),
        num_components=config.prior.num_components,
    )
    return model, jax.eval_shape(create, jax.random.key(0))


@pytest.mark.parametrize(
    "variant", ["full", "mmvae_plus", "mvae", "code", "jmvae", "independent_generators", "union"]
)
def test_a_variant_builds(variant):
    config = make_config(variant)
    model, state = build(config)
    sizes = config.model
    assert (model.num_latents, model.num_private) == (sizes.num_latents, sizes.num_private)
    assert model.aggregation._asdict() == {
        "aggregator": sizes.aggregator,
        "correlation": sizes.correlation,
    }
    params, latents = state.params, sizes.num_latents
    # The generator reads both kinds of latents, the latent energy only the shared ones.
    kernels = [leaf.shape for leaf in jax.tree.leaves(params["generator"]["word"])]
    assert any(shape[0] == latents + sizes.num_private for shape in kernels)
    if latents:
        assert params["prior"]["Dense_0"]["kernel"].shape == (latents, sizes.prior_hidden)
    else:
        assert params["prior"] == {}
    assert ("word_private" in params["inference"]) == (sizes.num_private > 0)
    assert ("word_joint" in params["inference"]) == (variant == "jmvae")
    assert params["inference"]["subset_logit"].shape == (3,)
    assert state.weights.base_prior.mean.shape == (config.prior.num_components, latents)


@pytest.mark.parametrize("variant", polydigits.VARIANTS)
def test_every_variant_gives_its_settings(variant):
    config = polydigits.get_config(variant)
    model = builders.build_model(config, FIELDS)
    assert hash(model) == hash(builders.build_model(config, FIELDS))
    settings, sampler = builders.build_settings(config), builders.build_sampler_settings(config)
    hash((settings, sampler))
    elbo = config.elbo
    assert settings.bound == Bound(
        elbo.objective, elbo.beta, elbo.num_samples, elbo.estimator, elbo.total_correlation,
        elbo.expert_weight, elbo.entropy_weight, elbo.shared_factor,
        elbo.hidden_share,
        elbo.hide_tokens,
    )  # fmt: skip
    chains = sampler.chains
    of_training = settings.chains.data._asdict()
    assert of_training == config.energy.chain.to_dict()
    assert settings.chains._replace(data=chains.data) == chains
    assert chains.prior_candidates == config.prior.num_candidates
    assert chains.data_start == config.energy.start
    for chain, section in (
        (chains.posterior, config.posterior),
        (chains.prior, config.prior),
        (chains.data, config.energy),
    ):
        assert chain._asdict() == pytest.approx(section.chain.to_dict())
    assert settings.independent_inference == config.posterior.independent_inference
    assert (sampler.prior_energy, sampler.data_energy) == (config.prior.learn, config.energy.learn)
    untrained = builders.build_sampler_settings(config, ())
    assert not untrained.prior_energy
    assert not untrained.data_energy


def test_the_families_reach_the_model():
    config = make_config("union", model__posterior="laplace", prior__family="laplace")
    builders.validate(config)
    model, _ = build(config)
    assert (model.posterior_family, model.prior_family) == ("laplace", "laplace")
    shapes = jax.eval_shape(lambda: template(model, 2).base_prior)
    assert shapes.is_laplace.dtype == bool


def test_each_network_is_scheduled_from_the_step_at_which_it_begins():
    config = make_config(
        num_steps=1000,
        warmup_steps=0,
        prior__start_step=300,
        energy__start_step=500,
        schedule__settle_step=0,
    )
    schedules = builders.build_schedules(config)
    warmup = config.schedule.warmup_steps
    # A schedule counts its network's own updates.
    for name, start in zip(NETWORKS, (0, 0, 300, 500), strict=True):
        peak = config.optimiser[name].learning_rate
        # The first step has the rate of the second step of a warm-up from zero.
        assert float(schedules[name](0)) == pytest.approx(peak / warmup, rel=1e-4)
        assert float(schedules[name](warmup - 1)) == pytest.approx(peak, rel=1e-4)
        assert float(schedules[name](1000 - start)) == pytest.approx(0.1 * peak, rel=0.01)
    settled = builders.build_schedules(
        make_config(
            num_steps=1000,
            warmup_steps=0,
            schedule__settle_step=600,
            prior__start_step=300,
            energy__start_step=500,
        )
    )
    for name in NETWORKS:
        start = {"prior": 300, "energy": 500}.get(name, 0)
        at_600 = float(settled[name](600 - start)) / config.optimiser[name].learning_rate
        assert (at_600 < 0.101) == (name in ("generator", "inference"))
        assert float(settled[name](1000)) == pytest.approx(float(schedules[name](1000)), rel=0.01)
    idle = builders.build_schedules(make_config("mmvae", num_steps=1000))
    assert float(idle["prior"](0)) > 0


def test_optimisers_bound_the_gradient():
    config = make_config(optimiser__energy__gradient_clip=1e-9)
    transformation = builders.build_optimisers(config)["energy"]
    params = {"a": np.ones(3, np.float32)}
    step, _ = transformation.update(params, transformation.init(params))
    assert isinstance(transformation, optax.GradientTransformation)
    # Far below Adam's epsilon of 1e-8; without clipping it would be 1.
    rate = float(builders.build_schedules(config)["energy"](0))
    assert 0 < float(-step["a"].max()) < 0.1 * rate


def test_the_largest_bound_on_the_gradient_is_none():
    config = make_config(optimiser__energy__gradient_clip=schema.UNCLIPPED)
    bounded, free = (builders.build_optimisers(c)["energy"] for c in (make_config(), config))
    params, gradient = {"a": np.zeros(3, np.float32)}, {"a": np.full(3, 1e12, np.float32)}
    states = [t.update(gradient, t.init(params))[1] for t in (bounded, free)]
    first = [state[1].mu["a"][0] for state in states]
    assert first[1] > 1e8 * first[0] > 0
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])  # checkpoints fit both


@pytest.mark.parametrize(("ratio", "is_complete"), [(0.0, True), (0.5, False)])
def test_missing_data_are_hidden_from_training_alone(ratio, is_complete):
    source = ArraySource(
        {"m0": np.ones([40, 2, 2, 1], np.uint8), "word": np.ones([40, 8], np.int32),
         "label": np.zeros(40, np.int32)}
    )  # fmt: skip
    splits = DataSplits(source, source, FIELDS, 10, "")
    seen = builders.build_train_source(make_config(missing_ratio=ratio), splits)
    batch = seen.gather(np.arange(40))
    assert (OBSERVED not in batch) == is_complete
    assert (batch["m0"] == 1).all() == is_complete
    assert OBSERVED not in splits.train.gather(np.arange(40))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("averaging", 1.0),
        ("averaging", -0.1),
        ("model.correlation", 1.0),
        ("model.correlation", -0.1),
        ("missing_ratio", 1.0),
        ("missing_ratio", -0.5),
        ("model.num_private", -1),
        ("revision_stride", 0),
        ("posterior.chain.step_size", -0.1),
        ("prior.num_candidates", 0),
        ("prior.fit_steps", -1),
        ("elbo.beta", -1.0),
        ("elbo.num_samples", 0),
        ("elbo.entropy_weight", -1.0),
        ("elbo.total_correlation", 1.5),
        ("elbo.total_correlation", -0.5),
        ("model.prior_bound", 0.0),
        ("optimiser.energy.learning_rate", 0.0),
        ("optimiser.energy.gradient_clip", float("nan")),
        ("seed", -1),
        ("prior.num_fit_examples", 10),
    ],
)
def test_impossible_values_are_named(field, value):
    config = make_config(**{field.replace(".", "__"): value})
    with pytest.raises(ValueError, match=rf"config\.{field} is {value}: it must be") as caught:
        builders.validate(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("model.aggregator", "mixture, product, .*, consensus"),
        ("model.posterior", "gaussian, laplace"),
        ("prior.family", "gaussian, laplace"),
        ("elbo.objective", "mmvae, joint, mvae, mvtcae, jmvae, code"),
        ("elbo.estimator", "elbo, stratum, iwae, dreg"),
        ("energy.start", "generator, noise"),
    ],
)
def test_unknown_names_list_the_known_ones(field, known):
    config = make_config(**{field.replace(".", "__"): "best"})
    with pytest.raises(ValueError, match=rf"config\.{field} is 'best': choose one of {known}\."):
        builders.validate(config)


def test_a_missing_field_is_named():
    config = polydigits.get_config()
    del config.prior.penalty
    with pytest.raises(ValueError, match=r"config\.prior\.penalty is missing"):
        builders.validate(config)


NEEDS = r"config\.elbo\.objective '{}' needs config\.model\.aggregator {}, not '{}'\."
NO_PRIVATE = (
    r"config\.model\.num_private is 2, but the objective '{}' with the aggregator '{}' has no "
    "private latents: set it to 0"
)
NO_LAPLACE = r"config\.elbo\.objective '{}' knows Gaussian divergences alone"
ONE_SAMPLE = r"config\.elbo\.objective '{}' takes one sample"
NO_SHARED = r"config\.model\.num_latents is 0 .*: set config\.model\.num_private, and"
CLUSTERS = r"config\.prior\.learn_clusters is True: the bound learns them, as Gaussians, so set"
FITTED = r"config\.energy\.fit_sampling_time is True: set"
NOISE = r"config\.energy\.start is 'noise': its samples come from no latent"


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("mvae", {"model__aggregator": "product"},
         NEEDS.format("mvae", "product_with_prior", "product")),
        ("mvtcae", {"model__aggregator": "mixture"}, NEEDS.format("mvtcae", "product", "mixture")),
        ("jmvae", {"model__aggregator": "product"},
         NEEDS.format("jmvae", "joint_expert", "product")),
        ("holder", {"elbo__objective": "joint"}, "no gradient for the weights .* holder learns"),
        ("holder", {"elbo__estimator": "stratum"}, "no gradient for the weights .* holder learns"),
        ("code", {"model__aggregator": "product"}, NEEDS.format("code", "consensus", "product")),
        ("mopoe", {"model__num_private": 2}, NO_PRIVATE.format("joint", "mixture_of_products")),
        ("mmvae_plus", {"model__aggregator": "wasserstein", "model__num_private": 2},
         NO_PRIVATE.format("mmvae", "wasserstein")),
        ("mopoe", {"model__posterior": "laplace"}, NO_LAPLACE.format("joint")),
        ("mvae", {"prior__family": "laplace"}, NO_LAPLACE.format("mvae")),
        ("mmvae", {"model__aggregator": "product", "model__posterior": "laplace"},
         r"config\.model\.aggregator 'product' combines Gaussian experts alone"),
        ("mvtcae", {"elbo__num_samples": 2}, ONE_SAMPLE.format("mvtcae")),
        ("code", {"elbo__estimator": "iwae"}, ONE_SAMPLE.format("code")),
        ("cmvae", {"elbo__learned_prior": False}, CLUSTERS),
        ("cmvae", {"prior__fit_mixture": True}, CLUSTERS),
        ("cmvae", {"model__posterior": "laplace", "prior__family": "laplace"}, CLUSTERS),
        ("mmvae", {"elbo__learned_prior": True},
         r"config\.elbo\.learned_prior is True, but no prior is learned"),
        ("full", {"energy__start": "noise"}, NOISE),
        ("noise_start", {"energy__synthesis_generator": 0.1}, NOISE),
        (
            "steps_0",
            {"energy__sampling_time": 2.0},
            r"config\.energy\.sampling_time is 2, but config\.energy\.chain\.num_steps is 0",
        ),
        ("full", {"energy__sampling_time": 2.0, "energy__fit_sampling_time": True}, FITTED),
        ("noise_start", {"energy__fit_sampling_time": True}, FITTED),
        ("steps_0", {"energy__fit_sampling_time": True}, FITTED),
        ("noise_start", {"energy__tokens": "held"}, r"config\.energy\.tokens is 'held', and held"),
        ("full", {"energy__gap_share": 0.5, "energy__chain__gradient_clip": 1.0},
         r"config\.energy\.gap_share is 0\.5: its steps follow from whole gradients"),
        ("full", {"energy__gap_share": 0.5, "energy__chain__step_size": 0.0},
         r"config\.energy\.gap_share is 0\.5: its steps follow from whole gradients"),
        ("full", {"energy__gap_share": 0.5},
         r"config\.energy\.gap_share is 0\.5, so .*: set config\.energy\.fit_sampling_time=True"),
        ("helvae", {"elbo__hide_tokens": True},
         r"config\.elbo\.hide_tokens is True, but the objective 'joint' hides no private latents"),
        ("noise_start", {"energy__synthesis_inference": 0.1}, NOISE),
        ("mmvae", {"model__num_latents": 0}, NO_SHARED),
        ("independent_generators", {"prior__learn": True}, NO_SHARED),
        ("independent_generators", {"prior__fit_mixture": True}, NO_SHARED),
    ],
)  # fmt: skip
def test_what_no_method_is_is_refused_in_one_line(variant, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        builders.validate(make_config(variant, **changes))
    assert "\n" not in str(caught.value)


def test_a_stride_divides_the_batch():
    builders.validate(make_config(batch_size=66, revision_stride=3))
    with pytest.raises(ValueError, match=r"config\.revision_stride is 4: it must divide .* 66\."):
        builders.validate(make_config(batch_size=66, revision_stride=4))


def test_without_a_bound_its_own_conditions_do_not_matter():
    changes = {"elbo__objective": "mvae", "elbo__weight": 0.0, "elbo__warmup_weight": 0.0}
    builders.validate(make_config("union", **changes))
    for again in ("elbo__weight", "elbo__warmup_weight"):
        with pytest.raises(ValueError, match=r"needs config\.model\.aggregator"):
            builders.validate(make_config("union", **(changes | {again: 1.0})))


def test_given_tokens_need_some_and_others_beside_them():
    config = make_config(energy__tokens="given")
    builders.build_model(config, FIELDS)
    for name in FIELDS:
        with pytest.raises(ValueError, match=rf'tokens is "given": .*, not {name}; set it to'):
            builders.build_model(config, {name: FIELDS[name]})


@pytest.mark.parametrize(("steps", "size"), [(10, 0.7), (40, 0.35)])
def test_samples_are_refined_for_a_time_of_their_own(steps, size):
    fields = {"energy__chain__num_steps": steps, "energy__chain__step_size": 0.1}
    timed, untimed = (make_config(energy__sampling_time=time, **fields) for time in (2.45, 0.0))
    assert builders.build_sampler_settings(timed).chains.data.step_size == pytest.approx(size)
    of_training = builders.build_chains(timed)
    assert of_training.data.step_size == 0.1
    assert builders.build_sampler_settings(untimed).chains == of_training
