"""Denoising diffusion that refines reconstructions: an alternative to the data energy."""
