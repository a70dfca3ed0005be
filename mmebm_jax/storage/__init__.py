"""Atomic file writes, and safe reading of files from untrusted sources."""
