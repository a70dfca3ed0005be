"""Unpack two small collections into the layout that the data set `folder` reads.

python -m experiments.unpack cub SOURCE TARGET [--split=within_class] [--mirrored]
python -m experiments.unpack cifar_captions SOURCE TARGET

SOURCE is the collection's folder, TARGET a new one. For `cub` (64×64 birds, attribute sentences)
the split is `class_disjoint`, whose test species are not in the training split, so that there are
no labels, or `within_class`, with the species as labels. The test split of `cifar_captions` is a
tenth of the captioned pictures, because CIFAR-10's own test split has no captions. `--mirrored`
adds a left-right mirrored copy of each training picture; no sentence in these collections mentions
left or right.
"""

import argparse
import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from experiments import command_line
from mmebm_jax.data.rows import need

_CIFAR_TEST = 5000
_MIRRORED = "mirrored/"  # folder of mirrored copies


def cub(source: Path, target: Path, split: str, mirrored: bool) -> None:
    """Pictures, five sentences each as `text`, and 89 binary attributes as `attributes`."""
    with need(source / "split.csv", "the collection's files").open(newline="") as file:
        splits = {row["image"]: row[split] for row in csv.DictReader(file)}
    with need(source / "attributes.csv", "the collection's files").open(newline="") as file:
        _, *names = next(lines := csv.reader(file))
        attributes = {image: list(map(int, ticks)) for image, *ticks in lines}
    metadata: dict[str, list[str]] = {"train": [], "test": []}
    with need(source / "captions.jsonl", "the collection's files").open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            image = record["image"]
            entry = {"file_name": image, "text": record["captions"]}
            entry |= {"attributes": attributes[image]}
            if split == "within_class":
                entry["label"] = record["class_name"]
            metadata[splits[image]].append(json.dumps(entry))
            if mirrored and splits[image] == "train":
                entry["file_name"] = _MIRRORED + image
                metadata["train"].append(json.dumps(entry))
    with tarfile.open(need(source / "images" / "cub64.tar", "the collection's files")) as archive:
        for member in archive:
            if member.isfile():
                member.name = f"{splits[member.name]}/{member.name}"
                archive.extract(member, target, filter="data")
                if mirrored and member.name.startswith("train/"):
                    _mirror(target / "train", member.name.removeprefix("train/"))
    for name, entries in metadata.items():
        (target / name / "metadata.jsonl").write_text("\n".join(entries) + "\n", encoding="utf-8")
    (target / "attributes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def _mirror(folder: Path, name: str) -> None:
    copy = folder / (_MIRRORED + name)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(folder / name) as picture:
        ImageOps.mirror(picture).save(copy)


def cifar_captions(source: Path, target: Path, split: str, mirrored: bool) -> None:
    """Pictures of 32×32 as `image`, one caption each as `text`, and CIFAR-10's class as `label`."""
    del split
    with need(source / "captions.csv", "the collection's files").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["index"]))
    stored = np.load(need(source / "cifar10_jpeg.npz", "the collection's files"))
    jpeg, offsets = stored["train_jpeg"].tobytes(), stored["train_offsets"].tolist()
    pictures = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]])).convert("RGB"))
            for i in (int(row["index"]) for row in rows)
        ]
    )
    texts = np.array([row["caption"] for row in rows])
    labels = np.array([row["label"] for row in rows])
    order = np.random.default_rng(0).permutation(len(rows))
    parts = {"test": order[:_CIFAR_TEST], "train": order[_CIFAR_TEST:]}
    for name, part in parts.items():
        arrays = {"image": pictures[part], "text": texts[part], "label": labels[part]}
        if mirrored and name == "train":
            arrays = {n: np.concatenate([values, values]) for n, values in arrays.items()}
            arrays["image"][len(part) :] = arrays["image"][len(part) :, :, ::-1]
        (target / name).mkdir(parents=True)
        with (target / name / "metadata.npz").open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]


COLLECTIONS: dict[str, Callable[[Path, Path, str, bool], None]] = {
    "cub": cub,
    "cifar_captions": cifar_captions,
}


def main(arguments: list[str] | None = None) -> None:
    """Unpack one collection."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collection", choices=COLLECTIONS)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--split", choices=("class_disjoint", "within_class"), default="class_disjoint"
    )
    parser.add_argument("--mirrored", action="store_true", help="add mirrored training pictures")
    given = parser.parse_args(arguments)
    if given.target.exists():
        command_line.fail(f"{given.target} exists: name a new folder.")
    aside = given.target.with_name(f"{given.target.name}.part")
    try:
        COLLECTIONS[given.collection](given.source, aside, given.split, given.mirrored)
    except (FileNotFoundError, ValueError) as error:
        command_line.fail(str(error))
    aside.rename(given.target)
    print(f"wrote {given.target}")


if __name__ == "__main__":
    main()
