"""The parts of `experiments.benchmark`, one a module."""
