"""The method: chains, bounds, losses, the update and sampling, as pure functions."""
