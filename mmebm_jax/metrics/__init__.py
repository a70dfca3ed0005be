"""Metrics for samples and latents: coherence, diversity, Fréchet distances, likelihoods, probes."""
