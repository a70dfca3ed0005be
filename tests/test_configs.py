import functools
import operator

import pytest

from configs import digits_text, polydigits, polymnist
from experiments.compare import read_config
from mmebm_jax.method.plan import Terms
from mmebm_jax.runs import builders

CASES = [
    (module, variant)
    for module in (polydigits, digits_text, polymnist)
    for variant in polydigits.VARIANTS
]
# A config of other data has its own schedule and sizes.
OF_THE_SCHEDULE = ("warmup_steps", "prior.fit_step", "prior.start_step", "energy.start_step")
OF_THE_SCHEDULE += ("schedule.settle_step",)
SIZES = ("model.num_latents", "model.num_private")
VAES = ("mmvae", "mmvae_iwae", "mmvae_dreg", "mmvae_plus", "mvae", "mvtcae", "mopoe")
VAES += ("wasserstein", "helvae", "code")
WITHOUT_REVISION = (*VAES, "paper_a_variational", "paper_a_no_revision", "ebm_prior")
WITHOUT_REVISION += ("paper_b_no_revision",)
WITHOUT_DATA_ENERGY = (*VAES, "paper_a", "paper_a_variational", "paper_a_no_prior")
WITHOUT_DATA_ENERGY += ("paper_a_no_revision", "ebm_prior", "paper_b_no_energy")
WITHOUT_PRIOR_ENERGY = (*VAES, "paper_a_no_prior", "paper_b", "paper_b_no_revision")
WITHOUT_PRIOR_ENERGY += ("paper_b_no_energy", "independent_generators")
PRIVATE = ("mmvae_plus", "paper_a", "paper_a_variational", "paper_a_no_prior")
PRIVATE += ("paper_a_no_revision", "independent_generators", "union")

# Of what is made from the full method, all that has a shared latent.
LEARNED_PRIOR = ("full", "union", "smoke", "noise_start", "independent_inference")
LEARNED_PRIOR += ("steps_0", "steps_10", "steps_30", "steps_60", "paper_a_variational")


@pytest.mark.parametrize(("module", "variant"), CASES)
def test_every_variant_is_valid_and_begins_and_ends_as_it_says(module, variant):
    config = module.get_config(variant)
    builders.validate(config)
    last = builders.terms_at(config, config.num_steps - 1)
    assert last.elbo == 1.0
    assert last.learn_prior == (variant not in WITHOUT_PRIOR_ENERGY)
    assert last.learn_energy == (variant not in WITHOUT_DATA_ENERGY)
    assert (last.posterior_generator > 0) == (variant not in WITHOUT_REVISION)
    assert (last.posterior_inference > 0) == (variant not in WITHOUT_REVISION)
    assert last.elbo_learned_prior == (variant in LEARNED_PRIOR)
    assert (last.synthesis_generator > 0) == (last.learn_energy and variant != "noise_start")
    assert (config.model.num_private > 0) == (variant in PRIVATE)
    if config.warmup_steps:
        assert builders.terms_at(config, 0) == Terms(elbo=1.0)


@pytest.mark.parametrize(("module", "variant"), CASES)
def test_a_variant_keeps_what_it_is_made_of_on_other_data(module, variant):
    config = module.get_config(variant)
    for name, value in polydigits.VARIANTS[variant].items():
        got = functools.reduce(operator.getitem, name.split("."), config)
        if name in SIZES:
            assert (got > 0) == (value > 0), name
        elif name not in OF_THE_SCHEDULE:
            assert got == value, name


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
