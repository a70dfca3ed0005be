"""Find the preset in configs/ closest to a run, and the fields in which they differ."""

import functools
import importlib
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import configs
from mmebm_jax.runs import schema
from mmebm_jax.storage.validation import leaves

APART = ("seed",)  # differs between runs but is not a difference in method


class Preset(NamedTuple):
    """A preset, and the fields in which a run differs from it: (its value, the preset's)."""

    name: str  # as given to --config
    differences: dict[str, tuple[Any, Any]]


def closest(config: ConfigDict) -> Preset | None:
    """The preset for the same data set with the fewest differing fields; None if there is none."""
    given = schema.parse(config)
    names = [name for name, _ in leaves(type(given)) if name not in APART]
    found = None
    for preset, other in _presets(config.data.name).items():
        differing = {
            name: (value, usual)
            for name in names
            if (value := schema.at(given, name)) != (usual := schema.at(other, name))
        }
        if found is None or len(differing) < len(found.differences):
            found = Preset(preset, differing)
    return found


@functools.cache
def _presets(data_name: str) -> dict[str, schema.Config]:
    """Every variant in configs/ for a data set, keyed by its name on the command line."""
    found = {}
    for path in sorted(Path(*configs.__path__).glob("*.py")):
        module = importlib.import_module(f"configs.{path.stem}")
        for variant in getattr(module, "VARIANTS", ()):
            parsed = schema.parse(module.get_config(variant))
            if parsed.data.name == data_name:  # type: ignore[attr-defined]
                found[f"configs/{path.name}:{variant}"] = parsed
    return found
