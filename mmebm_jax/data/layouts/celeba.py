"""CelebA (Liu et al. 2015, arXiv:1411.7766): aligned faces and 40 attributes.

    DIR/img_align_celeba/000001.jpg …      (or DIR/Img/img_align_celeba)
    DIR/list_attr_celeba.txt               (or DIR/Anno/…)
    DIR/list_eval_partition.txt            (or DIR/Eval/…)

202,599 pictures of 178×218, cropped to the centre square; 162,770 for training (partition 0) and
19,962 for testing (2); the validation split (1) is not used. Modalities: "image", and "attributes",
40 numbers −1 or 1 in the order of the file's second line. There are no classes.
"""

from pathlib import Path

from mmebm_jax.data.rows import PictureFile, Reading, Row, Tables, need

SOURCE = "CelebA's files from its page at the Multimedia Laboratory of CUHK"
PARTITIONS = {"0": "train", "1": "validation", "2": "test"}


def annotations(path: Path, version: str = "") -> list[Path]:
    """The files of attributes and of the partition."""
    return [
        _either(path, "Anno", "list_attr_celeba.txt"),
        _either(path, "Eval", "list_eval_partition.txt"),
    ]


def read(reading: Reading, version: str = "") -> Tables:
    """The rows of both splits.

    Raises:
      FileNotFoundError: a file or folder is missing.
      ValueError: a file does not have the expected content.
    """
    attributes, partition = annotations(reading.path)
    pictures = _either(reading.path, "Img", "img_align_celeba")
    values = _attributes(attributes)
    parts: dict[str, list[Row]] = {name: [] for name in PARTITIONS.values()}
    for number, line in enumerate(partition.read_text().splitlines(), 1):
        words = line.split()
        if len(words) != 2 or words[1] not in PARTITIONS or words[0] not in values:
            raise ValueError(
                f"{partition} line {number} is not a picture of {attributes.name} and 0, 1 or 2: "
                f"get {SOURCE}."
            )
        row = {"image": PictureFile(pictures / words[0]), "attributes": values[words[0]]}
        parts[PARTITIONS[words[1]]].append(Row(f"{partition} line {number}", row))
    return Tables(parts["train"], parts["test"])


def _either(path: Path, folder: str, name: str) -> Path:
    inner = path / folder / name
    return inner if inner.exists() else need(path / name, SOURCE)


def _attributes(file: Path) -> dict[str, tuple[float, ...]]:
    """Picture → its attributes."""
    lines = file.read_text().splitlines()
    names = lines[1].split() if len(lines) > 1 else []
    found = {}
    for number, line in enumerate(lines[2:], 3):
        picture, *numbers = line.split() or [""]
        if len(numbers) != len(names) or not set(numbers) <= {"-1", "1"}:
            raise ValueError(
                f"{file} line {number} has not {len(names)} of -1 and 1: get {SOURCE}."
            )
        found[picture] = tuple(map(float, numbers))
    if lines[:1] != [str(len(found))]:
        raise ValueError(f"{file} says it holds {lines[:1]}, but {len(found)} are: get {SOURCE}.")
    return found
