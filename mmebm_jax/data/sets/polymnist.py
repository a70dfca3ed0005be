"""PolyMNIST (Sutter et al. 2021, https://arxiv.org/abs/2105.02470) as a TFDS data set.

Five views of one digit class: in each, a different person's digit over a different photograph.
Three variants: built from MNIST over bundled photographs, or read from the official release in one
of its two layouts. It is prepared once as ArrayRecord files; TensorFlow is not needed.
"""

import hashlib
import itertools
import re
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import pydantic

from mmebm_jax.data.idx import parsed, read_idx, unpacked
from mmebm_jax.data.photographs import POLYMNIST_PHOTOGRAPHS, draw_over, photograph
from mmebm_jax.data.source import ArraySource, DataSplits, Field, RecordSource, Source
from mmebm_jax.data.torch_file import read_tensor
from mmebm_jax.storage.places import place
from mmebm_jax.storage.validation import PRINTABLE, OneOf, Record, brief, shown

if TYPE_CHECKING:
    from mmebm_jax.data.polymnist_builder import PolyMnist

SIZE = 28
MODALITIES = ("m0", "m1", "m2", "m3", "m4")
VARIANTS = ("from_mnist", "official_png", "official_pt")
LICENCE = (
    "Digits: MNIST, CC BY-SA 3.0. Photographs of from_mnist: coffee and retina CC0, rocket and "
    "hubble_deep_field public domain, flower (vultilion) CC BY 2.0. Official variants: CC BY 4.0."
)

SPLITS = ("train", "test")
_MNIST_PREFIX = {"train": "train", "test": "t10k"}
_PHOTO_SHORT_SIDE = 6 * SIZE
# SHA-256 of the unpacked content of MNIST's four files.
_MNIST_DIGESTS = {
    "train-images-idx3-ubyte.gz": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "train-labels-idx1-ubyte.gz": (
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}
_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
RELEASE = "the PolyMNIST archive (Zenodo record 4899160)"
# Versions of each variant, oldest first; a change of the examples needs a new one.
RELEASE_NOTES = {variant: {"1.0.0": "First version."} for variant in VARIANTS}
RELEASE_NOTES["from_mnist"]["2.0.0"] = "m3 and m4 over photographs that do not hide their digits."


Text = Annotated[str, pydantic.Field(max_length=4096, pattern=PRINTABLE)]


class Options(Record):
    """Which variant of PolyMNIST, and where its files are."""

    data_dir: Text = pydantic.Field(
        "data", min_length=1, description="Folder of prepared data sets: a local path or gs://."
    )
    variant: Annotated[str, OneOf(VARIANTS)] = pydantic.Field(
        "from_mnist",
        description="Built from the four gzipped MNIST IDX files, or the official release as "
        "`{train,test}/m{k}/{i}.{digit}.png` or as `MMNIST/{train,test}/m{k}.pt` and `labels.pt`.",
    )
    source_dir: Text = pydantic.Field(
        "", description="The local folder with these files; not used once prepared."
    )
    seed: int = pydantic.Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="Seed of the draws of from_mnist; each seed is prepared separately.",
    )
    download_url: Text = pydantic.Field(
        "",
        description="An archive to unpack into `source_dir` when its files are missing.",
    )
    sha256: str = pydantic.Field("", max_length=64, description="Checksum of this archive.")
    in_memory: bool = pydantic.Field(
        False,
        description="Whether everything is read into memory first (0.8 GB, 2 GB at the peak); "
        "batches then cost a tenth of reading them from disk.",
    )
    check_source: bool = pydantic.Field(
        True,
        description="Whether from_mnist accepts only MNIST's own four files, by their SHA-256. If "
        "not, data from other files of the same form are prepared under a separate name.",
    )

    @pydantic.model_validator(mode="after")
    def _only_draws_have_a_seed(self) -> "Options":
        if self.seed and self.variant != "from_mnist":
            raise ValueError(f"seed is {self.seed}: set it to 0, or variant to from_mnist.")
        return self


class Examples(NamedTuple):
    """One split in memory: ``images`` name → uint8 ``[N, 28, 28, 3]``, ``labels`` int ``[N]``."""

    images: dict[str, np.ndarray]
    labels: np.ndarray


# --- variant from_mnist ---------------------------------------------------------------------


def _check_mnist(path: Path, check_source: bool) -> None:
    """Checks that a file is intact and, with ``check_source``, is MNIST's own file of this name."""
    raw = unpacked(path)
    parsed(raw, path)
    if not check_source:
        return
    digest = hashlib.sha256(raw).hexdigest()
    if digest == _MNIST_DIGESTS[path.name]:
        return
    others = [name for name, known in _MNIST_DIGESTS.items() if known == digest]
    found = f"has the content of MNIST's {others[0]}" if others else "is not MNIST's file"
    mend = "rename it" if others else "download MNIST's"
    raise ValueError(f"{path} {found}: {mend}, or set check_source to False if this data is meant")


def _mnist_files(source: Path, split: str) -> tuple[Path, Path]:
    prefix = source / _MNIST_PREFIX[split]
    return Path(f"{prefix}-images-idx3-ubyte.gz"), Path(f"{prefix}-labels-idx1-ubyte.gz")


def from_mnist(source: Path, split: str, seed: int) -> Examples:
    """Applies PolyMNIST's published rule to a split of MNIST and the bundled photographs."""
    digits, labels = (read_idx(path) for path in _mnist_files(source, split))
    if digits.shape != (len(labels), SIZE, SIZE):
        raise ValueError(f"MNIST {split} images have shape {digits.shape}: download them again")
    if labels.max(initial=0) > 9:
        raise ValueError(f"MNIST {split} labels leave 0..9: download them again")
    images = {}
    for m, (name, photo_name) in enumerate(zip(MODALITIES, POLYMNIST_PHOTOGRAPHS, strict=True)):
        rng = np.random.default_rng([seed, SPLITS.index(split), m])
        drawn = np.arange(len(labels))
        for digit in range(10):
            of_class = np.flatnonzero(labels == digit)
            drawn[of_class] = rng.permutation(of_class)
        photo = photograph(photo_name, _PHOTO_SHORT_SIDE)
        images[name] = draw_over(rng, digits[drawn] > 128, photo)
    return Examples(images, labels)


# --- variants official_png and official_pt ----------------------------------------------------


def _release_root(source: Path) -> Path:
    """The folder that holds train/ and test/; archives differ in the folder around it."""
    for root in (source / "MMNIST", source / "PolyMNIST"):
        if root.is_dir():
            return root
    return source


def _check_picture(path: Path) -> None:
    """Checks that a PNG is 8-bit RGB 28 x 28; Pillow would silently cut 16 bits to 8."""
    with path.open("rb") as file:
        header = file.read(26)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR" or len(header) < 26:
        raise ValueError(f"{path} is no PNG that can be read: unpack it again")
    width, height = (int.from_bytes(header[i : i + 4], "big") for i in (16, 20))
    depth, colours = header[24], _PNG_COLOURS.get(header[25], "of an unknown kind")
    if (width, height, depth, colours) != (SIZE, SIZE, 8, "RGB"):
        raise ValueError(
            f"{path} is {depth}-bit {colours} {width} x {height}: convert it to 8-bit RGB "
            f"{SIZE} x {SIZE}, or unpack the release's own again"
        )


def _read_picture(path: Path) -> np.ndarray:
    _check_picture(path)
    from PIL import Image  # imported here, like TFDS below, as part of the extra `data`

    try:
        # Only PNG: a damaged file should not be tried with all of Pillow's readers.
        with Image.open(path, formats=("PNG",)) as image:
            return np.asarray(image)
    except Exception as error:  # Pillow raises many kinds for damaged files.
        raise ValueError(f"{path} is no PNG that can be read: unpack it again") from error


def _tuples(source: Path, split: str) -> dict[tuple[int, int], str]:
    """(number, digit) → file name, in order; every modality has all of these files.

    Raises:
        ValueError: a modality lacks a file that another one has, a number has two digits, or there
            are no pictures.
    """
    pattern = re.compile(r"(\d+)\.(\d)\.png")
    folders = [_release_root(source) / split / name for name in MODALITIES]
    found: list[dict[tuple[int, int], str]] = []
    for folder in folders:
        matches = (pattern.fullmatch(path.name) for path in folder.iterdir())
        found.append({(int(m[1]), int(m[2])): m[0] for m in matches if m})
    every = {identity: name for each in found for identity, name in each.items()}
    if not every:
        raise ValueError(f"{folders[0]} holds no picture named NUMBER.DIGIT.png: unpack it again")
    for folder, each in zip(folders, found, strict=True):
        if missing := sorted(every.keys() - each.keys()):
            raise ValueError(
                f"{folder / every[missing[0]]} is missing ({len(missing)} of {len(every)} files of "
                f"{split}/{folder.name}), but another modality has it: unpack the release again, "
                "or remove this number from every modality"
            )
    numbers = [number for number, _ in sorted(every)]
    for number, following in itertools.pairwise(numbers):
        if number == following:
            raise ValueError(
                f"{folders[0]} has number {number} with two digits: remove the wrong one"
            )
    return {identity: every[identity] for identity in sorted(every)}


def from_png(source: Path, split: str) -> Examples:
    """Reads ``{split}/m{k}/{i}.{digit}.png``, ordered by i."""
    tuples = _tuples(source, split)
    images: dict[str, np.ndarray] = {}
    for name in MODALITIES:
        folder = _release_root(source) / split / name
        images[name] = np.empty((len(tuples), SIZE, SIZE, 3), np.uint8)
        for i, file_name in enumerate(tuples.values()):
            images[name][i] = _read_picture(folder / file_name)
    return Examples(images, np.array([digit for _, digit in tuples]))


def _pictures(path: Path) -> np.ndarray:
    """A ``[N, 3, 28, 28]`` tensor as uint8 ``[N, 28, 28, 3]``; floats may span 0..1 or 0..255."""
    tensor = read_tensor(path)
    if tensor.ndim != 4 or tensor.shape[1:] != (3, SIZE, SIZE):
        raise ValueError(f"{path} has shape {tensor.shape}, not (N, 3, {SIZE}, {SIZE}): replace it")
    if tensor.dtype != np.uint8:
        low, high = tensor.min(), tensor.max()
        if not (low >= 0 and high <= 255):
            raise ValueError(f"{path} spans {low}..{high}: save it in 0..1 or 0..255")
        scale = 255 if high <= 1 else 1
        # In chunks: one example at a time is slow, and all at once would hold the floats twice.
        parts = np.array_split(tensor, max(1, len(tensor) // 4096))
        tensor = np.concatenate([np.rint(part * scale).astype(np.uint8) for part in parts])
    return np.ascontiguousarray(np.moveaxis(tensor, 1, -1))


def from_pt(source: Path, split: str) -> Examples:
    """Reads ``MMNIST/{split}/m{k}.pt`` and ``labels.pt``."""
    folder = _release_root(source) / split
    labels = read_tensor(folder / "labels.pt").astype(np.int64).reshape(-1)
    images = {name: _pictures(folder / f"{name}.pt") for name in MODALITIES}
    for name, array in images.items():
        if len(array) != len(labels):
            raise ValueError(
                f"{folder / name}.pt has {len(array)} pictures for {len(labels)} labels: replace it"
            )
    return Examples(images, labels)


# --- opening it -------------------------------------------------------------------------------


def _required(variant: str, source: Path) -> list[Path]:
    """The files and folders that a variant is built from."""
    if variant == "from_mnist":
        return [path for split in SPLITS for path in _mnist_files(source, split)]
    folders = [_release_root(source) / split for split in SPLITS]
    if variant == "official_png":
        return [folder / name for folder in folders for name in MODALITIES]
    names = [f"{name}.pt" for name in MODALITIES] + ["labels.pt"]
    return [folder / name for folder in folders for name in names]


def _check_source(variant: str, source_dir: str, check_source: bool) -> None:
    """Checks for missing and unfit files before anything is written."""
    source = Path(source_dir).expanduser()
    missing = [path for path in _required(variant, source) if not path.exists()]
    if not missing and source_dir:
        if variant == "from_mnist":
            for path in _required(variant, source):
                _check_mnist(path, check_source)
        elif variant == "official_png":
            for split in SPLITS:
                files = _tuples(source, split).values()
                for name in MODALITIES:
                    for file_name in files:
                        _check_picture(_release_root(source) / split / name / file_name)
        return
    if variant == "from_mnist":
        wanted = "MNIST's files " + ", ".join(path.name for path in _required(variant, source))
    else:
        wanted = RELEASE
    where = f"{missing[0]} is missing" if source_dir else "source_dir is empty"
    raise FileNotFoundError(
        f"polymnist {variant}: {where}: download {wanted} into a folder and name it in source_dir"
    )


def fetch_archive(url: str, sha256: str, folder: str) -> None:
    """Downloads a zip or tar archive into ``folder``, checks it and unpacks it there.

    Raises:
        ValueError: ``sha256`` is not a checksum or does not match the download, or the archive is
            damaged or would write outside the folder.
        ConnectionError: the address cannot be read.
    """
    if not sha256:
        raise ValueError("sha256 is empty: set it to the archive's checksum from its release page")
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256 is {shown(sha256)}: give its 64 hexadecimal digits")
    import pooch

    try:
        archive = pooch.retrieve(url, f"sha256:{sha256}", fname="download.archive", path=folder)
    except ValueError as error:
        raise ValueError(f"{url} does not match sha256 {sha256}: correct one of them") from error
    except OSError as error:
        raise ConnectionError(f"{url} cannot be downloaded: check the address") from error
    # zipfile drops path components that would leave the folder; tar needs a filter for this.
    try:
        if zipfile.is_zipfile(archive):
            shutil.unpack_archive(archive, folder, "zip")
        else:
            shutil.unpack_archive(archive, folder, "tar", filter="data")
    except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{url} is no safe zip or tar archive ({brief(str(error))})") from error


def _open(builder: "PolyMnist", split: str, in_memory: bool) -> Source:
    records = RecordSource(builder.as_data_source(split))
    return ArraySource(records.gather(np.arange(len(records)))) if in_memory else records


def load(options: Options, *, prepare: bool = True) -> DataSplits:
    """Opens PolyMNIST, preparing it in ``data_dir`` first if necessary.

    Args:
        options: the variant, and where its files are.
        prepare: whether to prepare it if it has not been prepared yet.

    Returns:
        Modalities "m0" … "m4", uint8 ``[28, 28, 3]``; from_mnist has 60,000 train and 10,000 test
        examples, the official variants as many as their folders hold.

    Raises:
        ValueError: a source file is damaged or not MNIST's, or the data set is not prepared and
            ``prepare`` is False.
        FileNotFoundError: a source file is missing; in this case nothing has been written.
    """
    from mmebm_jax.data import polymnist_builder
    from mmebm_jax.data.polymnist_builder import PolyMnist, PolyMnistConfig

    data_dir, source_dir, variant = options.data_dir, options.source_dir, options.variant
    place(data_dir)  # Raises a clear error for addresses that TFDS cannot use.
    seed, check_source = options.seed, options.check_source
    # Data from unchecked files must not be mistaken for MNIST's later.
    unchecked = variant == "from_mnist" and not check_source
    name = variant + ("_unchecked" if unchecked else "") + (f"_seed{seed}" if seed else "")
    config = PolyMnistConfig(name=name, variant=variant, seed=seed) if name != variant else name
    builder = PolyMnist(data_dir=data_dir, config=config, file_format="array_record")
    if not builder.is_prepared():
        try:
            _check_source(variant, source_dir, check_source)
        except FileNotFoundError:
            if not (source_dir and options.download_url):
                raise
            if prepare:
                fetch_archive(options.download_url, options.sha256, source_dir)
                _check_source(variant, source_dir, check_source)
        if not prepare:
            raise ValueError(
                f"PolyMNIST is not prepared in {data_dir} yet: training prepares it, once."
            )
        polymnist_builder.prepare(builder, Path(source_dir).expanduser())
    train, test = (_open(builder, split, options.in_memory) for split in SPLITS)
    fields = {name: Field("image", (SIZE, SIZE, 3)) for name in MODALITIES}
    return DataSplits(
        train, test, fields, num_classes=10, alphabet="", version=str(builder.version)
    )
