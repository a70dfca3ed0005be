"""Priors fitted to given latents, during a run at the times that its schedule sets, or ex post."""
