"""Deliberate faults of the kind that long runs meet in practice."""
