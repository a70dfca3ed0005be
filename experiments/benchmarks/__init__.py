"""The parts of `experiments.benchmark`, one per module."""
