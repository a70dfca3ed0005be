"""The training loop and what it needs, usable from Python."""
