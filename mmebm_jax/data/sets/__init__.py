"""Multimodal data sets that can be named in a configuration, one module each."""
