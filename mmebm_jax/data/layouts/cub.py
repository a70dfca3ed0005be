"""CUB-200-2011 (Wah et al. 2011) with the captions of Reed et al. (2016, arXiv:1605.05395).

Either of two layouts, recognised by the files that exist:

    DIR/CUB_200_2011/images/001.Black_footed_Albatross/*.jpg      DIR/train/CLASS/*.jpg
    DIR/text_c10/001.Black_footed_Albatross/*.txt                 DIR/test/CLASS/*.jpg
    DIR/trainvalclasses.txt, DIR/testclasses.txt                  DIR/text_trainvalclasses.txt
                                                                  DIR/text_testclasses.txt

11,788 pictures of 200 species with ten captions each, one per line; in the right layout, captions
are grouped by picture, and pictures are in the order of their sorted paths. 150 species are for
training (8,855 pictures) and 50 for testing (2,933), so the species cannot serve as a label.
Modalities: "image" and "text". The papers keep words seen more than 3 times, and 32 words of a
caption.
"""

from pathlib import Path

from mmebm_jax.data.rows import PictureFile, Reading, Row, Tables, need

PICTURES = "CUB-200-2011 from Caltech's page of the data set, and unpack CUB_200_2011.tgz here"
CAPTIONS = "the captions of Reed et al. 2016 (cvpr2016_cub), and unpack them here"
JOINED = "MMVAE's archive cub.zip, and unpack it here"
NUM_CAPTIONS = 10
_LISTS = ("trainvalclasses.txt", "testclasses.txt")


def annotations(path: Path, version: str = "") -> list[Path]:
    """The lists of classes, or the caption files; the content of text_c10 is not included."""
    return [
        file for file in (path / f"{p}{n}" for n in _LISTS for p in ("", "text_")) if file.is_file()
    ]


def read(reading: Reading, version: str = "") -> Tables:
    """The rows of both splits.

    Raises:
      FileNotFoundError: a file or folder is missing.
      ValueError: there are not ten captions for each picture.
    """
    path = reading.path
    if any((path / f"text_{name}").is_file() for name in _LISTS):
        return Tables(
            *(
                _joined(path, split, name)
                for split, name in zip(("train", "test"), _LISTS, strict=True)
            )
        )
    return Tables(*(_by_class(path, name) for name in _LISTS))


def _by_class(path: Path, name: str) -> list[Row]:
    pictures = need(path / "CUB_200_2011" / "images", PICTURES)
    texts, names = need(path / "text_c10", CAPTIONS), need(path / name, CAPTIONS)
    rows = []
    for each in names.read_text().split():
        for picture in sorted(need(pictures / each, PICTURES).glob("*.jpg")):
            file = need(texts / each / f"{picture.stem}.txt", CAPTIONS)
            rows.append(_row(picture, _lines(file), str(file)))
    return rows


def _joined(path: Path, split: str, name: str) -> list[Row]:
    file = need(path / f"text_{name}", JOINED)
    pictures, lines = sorted(need(path / split, JOINED).glob("*/*.jpg")), _lines(file)
    if len(lines) != NUM_CAPTIONS * len(pictures):
        raise ValueError(
            f"{file} has {len(lines)} captions for the {len(pictures)} pictures of {path / split}, "
            f"not {NUM_CAPTIONS} each: get {JOINED}."
        )
    starts = range(0, len(lines), NUM_CAPTIONS)
    return [
        _row(picture, lines[start : start + NUM_CAPTIONS], f"{file} line {start + 1}")
        for picture, start in zip(pictures, starts, strict=True)
    ]


def _lines(file: Path) -> list[str]:
    # A few of the released captions hold bytes that are not UTF-8; these words become unknown.
    text = file.read_bytes().decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip()]


def _row(picture: Path, captions: list[str], place: str) -> Row:
    if len(captions) != NUM_CAPTIONS:
        raise ValueError(
            f"{place} has {len(captions)} captions, not {NUM_CAPTIONS}: get {CAPTIONS}."
        )
    return Row(place, {"image": PictureFile(picture), "text": tuple(captions)})
