import functools
import operator

import pytest

from configs import (
    avatars,
    chaos,
    cifar_captions,
    cub,
    digits_text,
    folder,
    papers,
    polydigits,
    polymnist,
    polymnist_table,
    toy,
)
from experiments.command_line import read_config
from mmebm_jax.method.plan import Terms
from mmebm_jax.runs import builders, schema

ALL = (avatars, chaos, cifar_captions, cub, digits_text, folder, papers, polydigits)
ALL += (polymnist, polymnist_table, toy)
CASES = [
    (module, variant)
    for module in (polydigits, digits_text, polymnist, folder)
    for variant in polydigits.VARIANTS
]
OF_PAPERS = [(papers, variant) for variant in papers.VARIANTS if variant != "smoke"]
# Configs for other data have their own schedule and sizes.
OF_THE_SCHEDULE = ("warmup_steps", "prior.fit_step", "prior.start_step", "energy.start_step")
OF_THE_SCHEDULE += ("schedule.settle_step", "schedule.freeze_step", "num_steps", "revision_stride")
# Step sizes depend on the number of values in an example.
OF_THE_SCHEDULE += ("energy.chain.step_size", "energy.chain.temperature")
SIZES = ("model.num_latents", "model.num_private")
# Only for pictures: chains on pictures cannot close the gap to real sentences.
OF_THE_SCHEDULE += ("energy.gap_share",)
# Only used for sampling.
SIZES += ("prior.private_temperature", "posterior.chain.temperature")
# Latent energies of private_full, only on data where they help.
OF_THE_DATA = (("private_full", "prior.learn"), ("private_full", "prior.fit_steps"))
VAES = ("mmvae", "mmvae_iwae", "mmvae_dreg", "mmvae_plus", "mvae", "mvtcae", "mopoe")
# The latent energy of private_prior is fitted after the last step.
VAES += ("wasserstein", "helvae", "code", "private_prior")
SETTLED = ("private_full",)
# Until the other networks are frozen, private_full equals private_prior.
VAES += SETTLED
VAES += ("cmvae", "mwbvae", "mohelvae", "holder", "jmvae")
WITHOUT_REVISION = (*VAES, "paper_a_variational", "paper_a_no_revision", "ebm_prior")
WITHOUT_REVISION += ("paper_b_no_revision",)
WITHOUT_DATA_ENERGY = (*VAES, "paper_a", "paper_a_variational", "paper_a_no_prior")
WITHOUT_DATA_ENERGY += ("paper_a_no_revision", "ebm_prior", "paper_b_no_energy")
WITHOUT_PRIOR_ENERGY = (*VAES, "paper_a_no_prior", "paper_b", "paper_b_no_revision")
WITHOUT_PRIOR_ENERGY += ("paper_b_no_energy", "independent_generators")
PRIVATE = ("mmvae_plus", "private_prior", "paper_a", "paper_a_variational", "paper_a_no_prior")
PRIVATE += ("cmvae", "paper_a_no_revision", "independent_generators", "union", *SETTLED)

# All variants derived from the full method that have shared latents.
LEARNED_PRIOR = ("full", "union", "smoke", "noise_start", "independent_inference")
LEARNED_PRIOR += ("cmvae", "steps_0", "steps_10", "steps_30", "steps_60", "paper_a_variational")


@pytest.mark.parametrize(("module", "variant"), CASES + OF_PAPERS)
def test_every_variant_is_valid_and_begins_and_ends_as_it_says(module, variant):
    config = module.get_config(variant)
    builders.validate(config)
    end = config.schedule.freeze_step or config.num_steps
    last = builders.terms_at(config, end - 1)
    assert last.elbo == 1.0
    assert last.learn_prior == (variant not in WITHOUT_PRIOR_ENERGY)
    assert last.learn_energy == (variant not in WITHOUT_DATA_ENERGY)
    assert (last.posterior_generator > 0) == (variant not in WITHOUT_REVISION)
    assert (last.posterior_inference > 0) == (variant not in WITHOUT_REVISION)
    assert last.elbo_learned_prior == (variant in LEARNED_PRIOR)
    has_feedback = last.learn_energy and variant != "noise_start"
    assert (last.synthesis_generator > 0) == has_feedback
    assert (end < config.num_steps) == (variant in SETTLED)
    if variant in SETTLED:
        frozen = builders.terms_at(config, end)
        assert frozen == Terms(learn_energy=True, fitted_energy=config.prior.learn)
    assert (config.model.num_private > 0) == (variant in PRIVATE)
    if config.warmup_steps:
        clusters = config.prior.learn_clusters  # these are learned by the bound from the first step
        assert builders.terms_at(config, 0) == Terms(elbo=1.0, elbo_learned_prior=clusters)


@pytest.mark.parametrize(("module", "variant"), CASES)
def test_a_variant_keeps_what_it_is_made_of_on_other_data(module, variant):
    config = module.get_config(variant)
    for name, value in polydigits.VARIANTS[variant].items():
        if name.startswith("data.") and module is not polydigits:
            continue
        got = functools.reduce(operator.getitem, name.split("."), config)
        if name in SIZES:
            assert (got > 0) == (value > 0), name
        elif name not in OF_THE_SCHEDULE and (variant, name) not in OF_THE_DATA:
            assert got == value, name


@pytest.mark.parametrize("module", ALL)
def test_a_config_says_what_it_is(module):
    parts = ("Paper: ", "Hardware: ", "Expected", "Command: python -m ")
    positions = [module.__doc__.index(f"\n{part}") for part in parts]
    assert positions == sorted(positions)
    assert "inute" in module.__doc__ or "second" in module.__doc__


@pytest.mark.parametrize("module", ALL)
def test_every_difference_of_a_variant_arrives(module):
    for variant, differences in module.VARIANTS.items():
        config = module.get_config(variant)
        builders.validate(config)
        for name, value in differences.items():
            assert functools.reduce(operator.getitem, name.split("."), config) == value


# From tables in the references: likelihood and its scale in [-1, 1], β, family of the latents,
# shared and private latents, batch size, epochs of 60,000, Adam's rate for the generator.
AS_PUBLISHED = {
    "mmvae_plus_published": ("laplace", 1.5, 2.5, "laplace", 32, 32, 128, 250, 1e-3),
    "cmvae_published": ("laplace", 1.5, 2.5, "gaussian", 32, 32, 128, 250, 1e-3),
    "mopoe_published": ("laplace", 1.5, 2.5, "gaussian", 512, 0, 256, 300, 5e-4),
    "mvtcae_published": ("laplace", 1.5, 2.5, "gaussian", 512, 0, 256, 300, 5e-4),
    "paper_a_published": ("laplace", 1.5, 2.5, "laplace", 32, 32, 128, 250, 1e-3),
    "paper_b_published": ("gaussian", 0.3, 1.0, "gaussian", 32, 0, 100, 301, 3e-4),
}


def test_published_networks_are_residual_where_those_published_were():
    networks = {v: polymnist.get_config(v).model.networks for v in polymnist.PUBLISHED}
    plain = {v for v, name in networks.items() if name == "small"}
    # MoPoE and its relatives were published with plain convolutions.
    assert plain == {"mopoe_published", "mvtcae_published"}
    assert set(networks.values()) == {"small", "resnet"}


@pytest.mark.parametrize("variant", polymnist.PUBLISHED)
def test_published_means_published(variant):
    config = polymnist.get_config(variant)
    image, model = config.likelihood.image, config.model
    assert model.posterior == config.prior.family
    epochs = config.num_steps * config.batch_size / 60_000
    assert AS_PUBLISHED[variant] == (
        *(image.name, image.scale, config.elbo.beta, model.posterior),
        *(model.num_latents, model.num_private, config.batch_size, round(epochs, 2)),
        config.optimiser.generator.learning_rate,
    )
    assert config.guard.device == "accelerator"
    # A constant rate from the first to the last step, and no warm start.
    first, *rest = (
        float(builders.build_schedules(config)["generator"](step))
        for step in (0, 1, config.num_steps // 2, config.num_steps - 1)
    )
    assert rest == pytest.approx([first] * 3)
    assert builders.terms_at(config, 0) == builders.terms_at(config, config.num_steps - 1)


def test_the_published_chains():
    chains = {
        "paper_a_published": ("posterior", 20, 0.1, 1.0, "prior", 60, 0.4, 1.0),
        # Noise of .001 at a step size of .5.
        "paper_b_published": ("posterior", 10, 0.03, 1.0, "energy", 30, 0.5, (0.001 / 0.5) ** 2),
    }
    for variant, expected in chains.items():
        config = polymnist.get_config(variant)
        for i in (0, 4):
            chain = config[expected[i]].chain
            found = (chain.num_steps, chain.step_size, chain.temperature)
            assert found == pytest.approx(expected[i + 1 : i + 4])
    config = polymnist.get_config("paper_b_published")
    last = builders.terms_at(config, 0)
    assert last.elbo == 0
    assert last.synthesis_generator == 50 * last.posterior_generator
    assert last.synthesis_inference == pytest.approx(0.1 * last.posterior_inference)


@pytest.mark.parametrize("module", [polydigits, digits_text, polymnist])
def test_an_ending_hides_half_of_all_modalities(module):
    config = module.get_config("paper_a_missing")
    builders.validate(config)
    assert config.missing_ratio == 0.5
    config.missing_ratio = 0.0
    assert config == module.get_config("paper_a")


def test_a_config_is_read_by_path_and_variant(tmp_path):
    path = polydigits.__file__
    assert read_config(f"{path}:mmvae") == polydigits.get_config("mmvae")
    assert read_config(path) == polydigits.get_config()
    with pytest.raises(FileNotFoundError, match=r"absent\.py"):
        read_config(str(tmp_path / "absent.py"))
    with pytest.raises(ValueError, match="choose one of full, mmvae"):
        read_config(f"{path}:unknown")


def test_the_defaults_are_valid_and_other_than_every_full_run():
    schema.parse(schema.defaults())
    assert schema.differences(polydigits.get_config("smoke"))["num_steps"] == (8, 6000)
    assert not schema.differences(schema.defaults("ring"))
