"""The method: chains, bounds, the loss terms, the update and sampling, as pure functions."""

REVISION = 4
"""Raised when a change alters what a method computes; tables of results made before it say so.

What each changed is listed in `docs/results.md`.
"""
