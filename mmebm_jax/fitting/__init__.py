"""Priors fitted to given latents: within a run, where its schedule says so, and ex post."""
