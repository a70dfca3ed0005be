"""Settings and tiny models that several test files share."""

import tempfile

import jax
import pytest

from mmebm_jax.modality import Modality
from mmebm_jax.model import Model
from mmebm_jax.networks.convolution import scan_safe_convolution
from mmebm_jax.networks.joint import Generator, Inference, JointEnergy, LatentEnergy

jax.config.update("jax_enable_x64", False)
# Runs that a test repeats need not be compiled again; the folder lives as long as the tests.
COMPILED = tempfile.TemporaryDirectory(prefix="mmebm_tests_")
jax.config.update("jax_compilation_cache_dir", COMPILED.name)


@pytest.fixture(scope="session")
def tiny_model():
    """A picture and a sequence, three latents: the smallest model with both kinds."""
    modalities = (
        Modality("picture", "image", (8, 8, 1), "gaussian", 0.5),
        Modality("text", "sequence", (3, 4), "categorical"),
    )
    return Model(
        modalities=modalities,
        num_latents=3,
        inference=Inference(modalities, 3, 2, 8, scan_safe_convolution),
        generator=Generator(modalities, 2, 8, scan_safe_convolution),
        prior=LatentEnergy(8, 10.0),
        energy=JointEnergy(modalities, 2, 8, scan_safe_convolution),
        spectral_gain=1.5,
    )
