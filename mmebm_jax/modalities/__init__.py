"""Modalities, the parts that an example consists of, and their likelihoods."""
