"""CLEVR v1.0 (Johnson et al. 2017, arXiv:1612.06890): rendered objects, with their attributes.

    DIR/images/train/CLEVR_train_000000.png …, DIR/images/val/…
    DIR/scenes/CLEVR_train_scenes.json, CLEVR_val_scenes.json

70,000 pictures of 480×320 for training and 15,000 (val) for testing; CLEVR's test split has no
scenes. Modalities: "image"; "attributes", the number of objects with each of `ATTRIBUTES`; "text",
the objects from left to right, as in "small red metal cube, large blue rubber sphere". A scene has
3 to 10 objects: set `length` to 64. There are no classes.
"""

import json
from pathlib import Path
from typing import Any

from mmebm_jax.data.rows import PictureFile, Reading, Row, Tables, need
from mmebm_jax.storage.validation import brief

SOURCE = "CLEVR_v1.0.zip from CLEVR's page at Stanford (cs.stanford.edu), and unpack it"
SPLITS = ("train", "val")
ATTRIBUTES = {
    "size": ("small", "large"),
    "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    "material": ("rubber", "metal"),
    "shape": ("cube", "sphere", "cylinder"),
}


def annotations(path: Path, version: str = "") -> list[Path]:
    """The scene files of both splits."""
    return [need(path / "scenes" / f"CLEVR_{split}_scenes.json", SOURCE) for split in SPLITS]


def read(reading: Reading, version: str = "") -> Tables:
    """The rows of both splits.

    Raises:
      FileNotFoundError: a file or folder is missing.
      ValueError: a file holds no scenes.
    """
    tables = []
    for split, file in zip(SPLITS, annotations(reading.path), strict=True):
        folder = need(reading.path / "images" / split, SOURCE)
        try:
            scenes = json.loads(file.read_bytes())["scenes"]
            rows = [_values(scene, folder) for scene in scenes]
        except (ValueError, KeyError, TypeError) as error:
            reason = brief(f"{type(error).__name__}: {error}")
            raise ValueError(
                f"{file} holds no scenes of CLEVR ({reason}): get {SOURCE}."
            ) from error
        tables.append([Row(f"{file} scene {i}", values) for i, values in enumerate(rows)])
    return Tables(*tables)


def _values(scene: dict[str, Any], folder: Path) -> dict[str, Any]:
    objects = sorted(scene["objects"], key=lambda each: each["pixel_coords"][0])
    counts = tuple(
        float(sum(each[attribute] == value for each in objects))
        for attribute, values in ATTRIBUTES.items()
        for value in values
    )
    sentence = ", ".join(" ".join(each[attribute] for attribute in ATTRIBUTES) for each in objects)
    picture = PictureFile(folder / scene["image_filename"])
    return {"image": picture, "attributes": counts, "text": (sentence,)}
