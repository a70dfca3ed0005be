"""Ex-post density estimation: priors fitted to latents at hand, apart from the networks."""
