"""Building a run's objects from its configuration; its checkpoints and its sampler."""
