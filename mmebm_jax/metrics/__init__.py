"""How good the samples and the latents are: coherence, Fréchet distances, a linear probe."""
