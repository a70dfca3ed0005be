"""Distributions of latents: families, the mixture of experts, aggregators, the base prior."""
