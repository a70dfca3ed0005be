"""Multimodal energy-based models learned with a multimodal VAE by MCMC revision."""

from mmebm_jax.sampler import Sampler, load

__all__ = ["Sampler", "load"]
__version__ = "0.1.0"
