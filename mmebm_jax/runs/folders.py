"""Tells run folders and exports apart."""

from etils import epath

FACTS, TENSORS = "export.json", "model.safetensors"


def is_export(folder: epath.Path) -> bool:
    """Whether a folder holds an export, whole or damaged."""
    if (folder / FACTS).exists():
        return True
    return (folder / TENSORS).exists() and not (folder / "checkpoints").exists()


def check_run(folder: epath.Path) -> None:
    """Check that a folder is not an export, where a run is needed.

    Raises:
      ValueError: it is an export.
    """
    if is_export(folder):
        raise ValueError(
            f"{folder} is an export, not a run: it can be sampled from (without --config) and "
            "measured (by --weights), but not trained on; name the folder of a run."
        )
