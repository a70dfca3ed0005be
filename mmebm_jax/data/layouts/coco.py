"""MSCOCO captions (Chen et al. 2015, arXiv:1504.00325), of 2014 or 2017.

    DIR/annotations/captions_train2014.json, captions_val2014.json     (or 2017)
    DIR/train2014/*.jpg, DIR/val2014/*.jpg

The training split is train, the test split is val: 82,783 and 40,504 pictures in 2014, 118,287 and
5,000 in 2017, five to seven captions each. Modalities: "image" and "text"; there are no classes.
"""

import json
from pathlib import Path
from typing import Any

from mmebm_jax.data.rows import PictureFile, Reading, Row, Tables, need
from mmebm_jax.storage.validation import brief

SPLITS = ("train", "val")


def annotations(path: Path, version: str) -> list[Path]:
    """The caption files of both splits."""
    source = _source("annotations_trainval", version)
    return [need(path / "annotations" / f"captions_{s}{version}.json", source) for s in SPLITS]


def read(reading: Reading, version: str) -> Tables:
    """The rows of both splits; a picture without captions lacks "text".

    Raises:
      FileNotFoundError: a file or folder is missing.
      ValueError: a file does not hold captions.
    """
    tables = []
    for split, file in zip(SPLITS, annotations(reading.path, version), strict=True):
        folder = need(reading.path / f"{split}{version}", _source(split, version))
        try:
            tables.append(_rows(json.loads(file.read_bytes()), folder, file))
        except (ValueError, KeyError, TypeError) as error:
            reason = brief(f"{type(error).__name__}: {error}")
            source = _source("annotations_trainval", version)
            raise ValueError(f"{file} is no file of captions ({reason}): get {source}.") from error
    return Tables(*tables)


def _source(name: str, version: str) -> str:
    return f"{name}{version}.zip from cocodataset.org, and unpack it here"


def _rows(content: dict[str, Any], folder: Path, file: Path) -> list[Row]:
    captions: dict[int, list[str]] = {}
    for annotation in content["annotations"]:
        if caption := annotation["caption"].strip():
            captions.setdefault(annotation["image_id"], []).append(caption)
    rows = []
    for image in content["images"]:
        values: dict[str, Any] = {"image": PictureFile(folder / image["file_name"])}
        if image["id"] in captions:
            values["text"] = tuple(captions[image["id"]])
        rows.append(Row(f"{file} image {image['id']}", values))
    return rows
