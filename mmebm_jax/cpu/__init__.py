"""What exists for XLA:CPU's sake: faster ways to compute the same numbers."""
