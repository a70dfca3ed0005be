"""From a configuration to the objects of a run, its checkpoints and its sampler."""
