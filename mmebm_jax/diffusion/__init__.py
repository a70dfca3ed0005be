"""Denoising diffusion that refines reconstructions: the rival of the data energy."""
