"""Multimodal data sets that can be named in a configuration, one file each."""
