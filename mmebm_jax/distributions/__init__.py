"""Distributions of latents: location-scale families, and the base prior."""
