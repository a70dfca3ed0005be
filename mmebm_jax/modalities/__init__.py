"""What an example is made of: modalities, their likelihoods, and latents."""
