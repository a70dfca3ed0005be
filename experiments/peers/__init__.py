"""Comparisons with third-party libraries."""
