"""The method: chains, bounds, the loss terms, the update and sampling, as pure functions."""

REVISION = 4
"""Incremented when a change alters what a method computes; tables of older results say so.

`docs/results.md` lists what each revision changed.
"""
