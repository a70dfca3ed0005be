"""Ex-post density estimation: priors fitted to given latents, apart from the networks."""
