"""The library's version, which pyproject.toml reads too."""

VERSION = "0.2.0"
