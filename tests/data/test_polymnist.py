import functools
import gzip
import hashlib
import http.server
import io
import pickle
import shutil
import struct
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.io import imsave

from mmebm_jax.data import batches, load_data, whole
from mmebm_jax.data.photographs import POLYMNIST_PHOTOGRAPHS, photograph
from mmebm_jax.data.sets import polymnist as module
from mmebm_jax.data.sets.polymnist import MODALITIES, fetch_archive, read_idx
from mmebm_jax.data.source import RecordSource
from mmebm_jax.data.torch_file import read_tensor
from tests.data.test_polydigits import recover_mask


def polymnist(data_dir, variant="from_mnist", source_dir="", **options):
    """The data set with these options."""
    options |= {"data_dir": data_dir, "variant": variant, "source_dir": source_dir}
    return load_data("polymnist", **options)


NUM = {"train": 40, "test": 20}
# The digits below are not from MNIST.
build = functools.partial(polymnist, check_source=False)


# --- from_mnist -------------------------------------------------------------------------------


def synthetic_digits(split):
    """28 x 28 pictures whose masks are unique, with values at and just above the threshold."""
    rng = np.random.default_rng(len(split))
    labels = (np.arange(NUM[split]) % 10).astype(np.uint8)
    images = rng.choice(np.array([0, 128, 129, 255], np.uint8), (len(labels), 28, 28))
    return images, labels


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(header + array.tobytes(), mtime=0)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = synthetic_digits(split)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    return folder


@pytest.fixture(scope="module")
def built(mnist, tmp_path_factory):
    return build(str(tmp_path_factory.mktemp("data")), source_dir=str(mnist))


def test_built_shapes_and_fields(built):
    assert (len(built.train), len(built.test), built.num_classes) == (40, 20, 10)
    assert built.fields == dict.fromkeys(MODALITIES, ("image", (28, 28, 3)))
    batch = whole(built.test)
    for name in MODALITIES:
        assert batch[name].shape == (20, 28, 28, 3)
        assert batch[name].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], synthetic_digits("test")[1])


def test_each_modality_permutes_the_digits_within_their_class(built):
    digits, labels = synthetic_digits("test")
    known = {(digit > 128).tobytes(): i for i, digit in enumerate(digits)}
    batch = whole(built.test)
    orders = []
    for name, photo_name in zip(MODALITIES, POLYMNIST_PHOTOGRAPHS, strict=True):
        photo = photograph(photo_name, 168)
        order = [known[recover_mask(image, photo)] for image in batch[name]]
        assert sorted(order) == list(range(20))
        assert labels[order].tolist() == batch["label"].tolist()
        orders.append(tuple(order))
    assert len(set(orders)) == 5


def test_records_feed_the_pipeline(built):
    batch = batches(built.train, 8, seed=0)[3]
    everything = whole(built.train)
    rows = [
        np.flatnonzero((everything["m0"] == image).all((1, 2, 3))).item() for image in batch["m0"]
    ]
    for name, array in everything.items():
        np.testing.assert_array_equal(batch[name], array[rows])


def test_without_leave_to_prepare_nothing_is_written(mnist, tmp_path):
    data_dir = tmp_path / "data"
    with pytest.raises(ValueError, match="is not prepared"):
        build(str(data_dir), source_dir=str(mnist), prepare=False)
    assert not data_dir.exists()


def test_building_is_deterministic_and_seeds_are_kept_apart(built, mnist, tmp_path):
    again = build(str(tmp_path), source_dir=str(mnist))
    other = build(str(tmp_path), source_dir=str(mnist), seed=1)
    for name in MODALITIES:
        np.testing.assert_array_equal(whole(built.train)[name], whole(again.train)[name])
        assert (whole(built.train)[name] != whole(other.train)[name]).any()


def test_prepared_data_needs_no_source_and_fits_in_memory(mnist, tmp_path):
    first = build(str(tmp_path), source_dir=str(mnist))
    reopened = build(str(tmp_path), in_memory=True)
    for name, array in whole(first.train).items():
        np.testing.assert_array_equal(array, whole(reopened.train)[name])


def test_data_prepared_over_the_photographs_of_an_older_version_is_not_taken(mnist, tmp_path):
    build(str(tmp_path), source_dir=str(mnist))
    (prepared,) = tmp_path.glob("poly_mnist/from_mnist*/*")
    assert prepared.name == "2.0.0"
    prepared.rename(prepared.with_name("1.0.0"))
    with pytest.raises(ValueError, match="is not prepared"):
        build(str(tmp_path), source_dir=str(mnist), prepare=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_versions_belong_to_variants(seed, mnist, tmp_path):
    """New photographs are no reason to read the official release again."""
    build(str(tmp_path), source_dir=str(mnist), seed=seed)
    write_pngs(tmp_path / "raw")
    build(str(tmp_path), "official_png", str(tmp_path / "raw"))
    versions = {path.parent.name: path.name for path in tmp_path.glob("poly_mnist/*/[0-9]*")}
    built = "from_mnist_unchecked" + (f"_seed{seed}" if seed else "")
    assert versions == {built: "2.0.0", "official_png": "1.0.0"}


def test_files_that_are_not_mnists_are_refused_unless_they_are_meant(mnist, tmp_path, monkeypatch):
    """Fashion-MNIST has the same names and shapes; its data must never pass for MNIST."""
    data_dir = tmp_path / "data"
    with pytest.raises(ValueError, match=r"train-images.*gz is not MNIST's file.*check_source"):
        polymnist(str(data_dir), source_dir=str(mnist))
    assert not data_dir.exists()
    build(str(data_dir), source_dir=str(mnist))
    with pytest.raises(FileNotFoundError, match="source_dir is empty"):
        polymnist(str(data_dir))
    digests = {
        path.name: hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
        for path in mnist.iterdir()
    }
    monkeypatch.setattr(module, "_MNIST_DIGESTS", digests)
    splits = polymnist(str(data_dir), source_dir=str(mnist))
    np.testing.assert_array_equal(whole(splits.test)["label"], synthetic_digits("test")[1])


def test_mnists_files_under_each_others_names_are_named(mnist, tmp_path, monkeypatch):
    name = "train-labels-idx1-ubyte.gz"
    content = (mnist / name).read_bytes()
    known = hashlib.sha256(gzip.decompress(content)).hexdigest()
    monkeypatch.setitem(module._MNIST_DIGESTS, name, known)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"has the content of MNIST's {name}: rename it"):
        module._check_mnist(tmp_path / "t10k-labels-idx1-ubyte.gz", True)


# --- the official layouts ---------------------------------------------------------------------


def official(split):
    rng = np.random.default_rng(100 + len(split))
    images = {name: rng.integers(0, 256, (12, 28, 28, 3), np.uint8) for name in MODALITIES}
    return images, np.arange(12) % 10


def assert_official(splits):
    for split, source in (("train", splits.train), ("test", splits.test)):
        images, labels = official(split)
        batch = whole(source)
        np.testing.assert_array_equal(batch["label"], labels)
        for name in MODALITIES:
            np.testing.assert_array_equal(batch[name], images[name])


def write_pngs(root):
    for split in ("train", "test"):
        images, labels = official(split)
        for name in MODALITIES:
            (root / split / name).mkdir(parents=True)
            for i, (image, label) in enumerate(zip(images[name], labels, strict=True)):
                path = root / split / name / f"{i}.{label}.png"
                imsave(path, image, check_contrast=False)


def test_png_layout(tmp_path):
    write_pngs(tmp_path / "raw" / "PolyMNIST")
    assert_official(polymnist(str(tmp_path / "data"), "official_png", str(tmp_path / "raw")))


def set_digit(folder):
    for name in MODALITIES:
        (folder / "train" / name / "4.7.png").write_bytes(b"")


def remove_all(folder):
    for path in (folder / "train").rglob("*.png"):
        path.unlink()


def draw(**options):
    """A 28 x 28 picture saved in a different format from the release."""

    def write(folder):
        image = Image.fromarray(np.zeros([28, 28, 3], np.uint8)).convert(options["mode"])
        image.save(folder / "test" / "m2" / "7.7.png")

    return write


def draw_16_bits(folder):
    """A format that Pillow reads as 8-bit RGB but cannot write."""
    rows = b"".join(b"\0" + bytes(28 * 6) for _ in range(28))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 16, 2, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path = folder / "test" / "m2" / "7.7.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )
    with Image.open(path) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda folder: (folder / "train" / "m3" / "4.4.png").unlink(),
            ["m3/4.4.png is missing", "1 of 12", "from every modality"],
        ),
        (
            lambda folder: (folder / "train" / "m0" / "4.4.png").unlink(),
            ["m0/4.4.png is missing", "from every modality"],
        ),
        (
            lambda folder: (folder / "test" / "m1" / "4.4.png").rename(
                folder / "test" / "m1" / "4.5.png"
            ),
            ["m0/4.5.png is missing"],
        ),
        (set_digit, ["number 4 with two digits"]),
        (remove_all, ["no picture named NUMBER.DIGIT.png"]),
        (draw(mode="P"), ["7.7.png is 8-bit palette 28 x 28: convert it to 8-bit RGB"]),
        (draw(mode="RGBA"), ["7.7.png is 8-bit RGBA 28 x 28: convert it"]),
        (draw(mode="L"), ["7.7.png is 8-bit grey 28 x 28: convert it"]),
        (draw_16_bits, ["7.7.png is 16-bit RGB 28 x 28: convert it"]),
    ],
)
def test_unfit_pictures_are_refused_before_anything_is_written(tmp_path, change, named):
    write_pngs(tmp_path / "raw")
    change(tmp_path / "raw")
    with pytest.raises(ValueError) as error:
        polymnist(str(tmp_path / "data"), "official_png", str(tmp_path / "raw"))
    assert "\n" not in str(error.value)
    for text in named:
        assert text in str(error.value)
    assert not (tmp_path / "data").exists()


class Global:
    """Pickles as the bare name of something that need not exist here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args


class Storage:
    """Pickles as a persistent id."""

    def __init__(self, *pid):
        self.pid = pid


class TorchPickler(pickle._Pickler):
    """The pure-Python pickler, which can write names of modules that are not installed."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.args)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


TYPES = {"float32": "FloatStorage", "uint8": "ByteStorage", "int64": "LongStorage"}
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def write_pt(path, array, tree=None, size=None):
    """What ``torch.save(tensor)`` writes; ``tree`` or ``size`` tamper with it."""
    stride = tuple(s // array.itemsize for s in array.strides)
    kind = Global("torch", TYPES[array.dtype.name])
    storage = Storage("storage", kind, "0", "cpu", array.size)
    tensor = Call(REBUILD, storage, 0, size or array.shape, stride, False, OrderedDict())
    description = io.BytesIO()
    TorchPickler(description, protocol=2).dump(tensor if tree is None else tree)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", description.getvalue())
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", array.tobytes(order="A"))


@pytest.mark.parametrize("as_float", [False, True])
def test_pt_layout(tmp_path, as_float):
    for split in ("train", "test"):
        images, labels = official(split)
        folder = tmp_path / "raw" / "MMNIST" / split
        write_pt(folder / "labels.pt", labels)
        for name in MODALITIES:
            array = np.ascontiguousarray(np.moveaxis(images[name], -1, 1))
            write_pt(folder / f"{name}.pt", array / np.float32(255) if as_float else array)
    assert_official(polymnist(str(tmp_path / "data"), "official_pt", str(tmp_path / "raw")))


def test_tensors_keep_their_strides(tmp_path):
    array = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    write_pt(tmp_path / "x.pt", array)
    np.testing.assert_array_equal(read_tensor(tmp_path / "x.pt"), array)


def test_a_pickle_that_calls_code_is_refused_unrun(tmp_path):
    target = tmp_path / "made"
    tree = Call(Global("os", "mkdir"), str(target))
    write_pt(tmp_path / "x.pt", np.zeros(3, np.float32), tree)
    with pytest.raises(ValueError, match=r"os\.mkdir"):
        read_tensor(tmp_path / "x.pt")
    assert not target.exists()


def test_a_tensor_cannot_reach_outside_its_storage(tmp_path):
    write_pt(tmp_path / "x.pt", np.zeros(3, np.float32), size=(4,))
    with pytest.raises(ValueError, match="outside its storage"):
        read_tensor(tmp_path / "x.pt")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="not a PyTorch zip file"):
        read_tensor(tmp_path / "x.pt")
    write_pt(tmp_path / "y.pt", np.zeros(3, np.float32), tree=[1, 2])
    with pytest.raises(ValueError, match="holds a list"):
        read_tensor(tmp_path / "y.pt")


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "missing", "wanted"),
    [
        ("from_mnist", "train-images-idx3-ubyte.gz is missing", "t10k-labels-idx1-ubyte.gz"),
        ("official_png", "m0 is missing", "Zenodo record 4899160"),
        ("official_pt", "m0.pt is missing", "Zenodo record 4899160"),
    ],
)
def test_a_missing_source_says_what_to_download_and_writes_nothing(
    tmp_path, variant, missing, wanted
):
    data_dir = tmp_path / "data"
    for source_dir, reason in ((str(tmp_path / "raw"), missing), ("", "source_dir is empty")):
        with pytest.raises(FileNotFoundError) as error:
            polymnist(str(data_dir), variant, source_dir)
        message = str(error.value)
        assert reason in message
        assert wanted in message
        assert message.endswith("name it in source_dir")
        assert "\n" not in message
    assert not data_dir.exists()


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="choose one of from_mnist, official_png, official_pt"):
        polymnist(str(tmp_path), "cubs")
    with pytest.raises(ValueError, match="seed is 1"):
        polymnist(str(tmp_path), "official_pt", seed=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain", "not a whole gzip file"),
        (gzip.compress(b"\x00\x00\x0d\x01", mtime=0), "not an IDX file"),
        (idx(np.zeros(9, np.uint8))[:-4], "not a whole gzip file"),
        (gzip.compress(gzip.decompress(idx(np.zeros(9, np.uint8)))[:-4], mtime=0), "cut short"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "x.gz")


# --- download ---------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    """A folder and the local address that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_source_is_downloaded_and_checked(served, mnist, tmp_path):
    folder, address = served
    with zipfile.ZipFile(folder / "mnist.zip", "w") as archive:
        for path in mnist.iterdir():
            archive.write(path, path.name)
    options = {"source_dir": str(tmp_path / "raw"), "download_url": f"{address}/mnist.zip"}
    with pytest.raises(ValueError, match="sha256 is empty"):
        build(str(tmp_path / "data"), **options)
    with pytest.raises(ValueError, match="does not match sha256"):
        build(str(tmp_path / "data"), **options, sha256="0" * 64)
    with pytest.raises(ConnectionError, match="cannot be downloaded"):
        fetch_archive(f"{address}/absent.zip", "0" * 64, str(tmp_path / "raw"))
    splits = build(str(tmp_path / "data"), **options, sha256=sha256(folder / "mnist.zip"))
    assert len(splits.train) == 40


def link(target, kind):
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, target
    return member


ABSOLUTE = str(Path(tempfile.gettempdir()) / "mmebm_escaped")


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../escaped"),
        tarfile.TarInfo("folder/../../escaped"),
        link("../../escaped", tarfile.SYMTYPE),
        link(ABSOLUTE, tarfile.SYMTYPE),
        link("../escaped", tarfile.LNKTYPE),
    ],
    ids=["parent", "folder", "link", "absolute-link", "hard-link"],
)
def test_a_tar_archive_that_would_leave_its_folder_is_refused(served, tmp_path, member):
    folder, address = served
    path, raw = folder / "evil.tar", tmp_path / "raw"
    with tarfile.open(path, "w") as archive:
        archive.addfile(member, io.BytesIO())
    with pytest.raises(ValueError, match=r"evil\.tar is no safe zip or tar archive"):
        fetch_archive(f"{address}/evil.tar", sha256(path), str(raw))
    assert [path.name for path in raw.iterdir()] == ["download.archive"]
    assert not (tmp_path / "escaped").exists()


def test_absolute_names_of_a_tar_archive_stay_in_its_folder(served, tmp_path):
    folder, address = served
    path, raw = folder / "evil.tar", tmp_path / "raw"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo(ABSOLUTE), io.BytesIO())
    fetch_archive(f"{address}/evil.tar", sha256(path), str(raw))
    assert not Path(ABSOLUTE).exists()
    assert (raw / ABSOLUTE.lstrip("/")).exists()


@pytest.mark.parametrize("name", ["../escaped", "folder/../../escaped", ABSOLUTE])
def test_a_zip_archive_cannot_leave_its_folder(served, tmp_path, name):
    folder, address = served
    path, raw = folder / "evil.zip", tmp_path / "raw"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "")
        archive.writestr("inside", "")
    fetch_archive(f"{address}/evil.zip", sha256(path), str(raw))
    assert {path.name for path in raw.iterdir()} == {"download.archive", "inside"}
    assert not (tmp_path / "escaped").exists()
    assert not Path(ABSOLUTE).exists()


@pytest.mark.parametrize("content", [b"", b"plain", gzip.compress(b"plain", mtime=0)])
def test_what_is_no_archive_is_refused(served, tmp_path, content):
    folder, address = served
    (folder / "some.zip").write_bytes(content)
    with pytest.raises(ValueError, match="no safe zip or tar archive"):
        fetch_archive(f"{address}/some.zip", sha256(folder / "some.zip"), str(tmp_path / "raw"))


def test_what_is_no_checksum_is_refused(tmp_path):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        fetch_archive("http://127.0.0.1:1/x.zip", "abc", str(tmp_path))


# --- damaged sources --------------------------------------------------------------------------


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(2**26 + 1), 1, mtime=0))
    with pytest.raises(ValueError, match=r"x\.gz unpacks to more than MNIST's files"):
        read_idx(tmp_path / "x.gz")


def test_labels_out_of_range_are_refused(mnist, tmp_path):
    shutil.copytree(mnist, tmp_path / "raw")
    labels = np.full(NUM["train"], 10, np.uint8)
    (tmp_path / "raw" / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    with pytest.raises(ValueError, match=r"MNIST train labels leave 0\.\.9"):
        build(str(tmp_path / "data"), source_dir=str(tmp_path / "raw"))


def test_a_damaged_picture_is_named(tmp_path):
    write_pngs(tmp_path / "raw")
    (tmp_path / "raw" / "test" / "m2" / "7.7.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"7\.7\.png is no PNG"):
        polymnist(str(tmp_path / "data"), "official_png", str(tmp_path / "raw"))


def test_a_tensor_cannot_claim_more_than_it_stores(tmp_path):
    """A stride of zero would turn three numbers into an array of any size."""
    storage = Storage("storage", Global("torch", "FloatStorage"), "0", "cpu", 3)
    tree = Call(REBUILD, storage, 0, (10**12,), (0,), False, OrderedDict())
    write_pt(tmp_path / "x.pt", np.zeros(3, np.float32), tree)
    with pytest.raises(ValueError, match="larger than its storage"):
        read_tensor(tmp_path / "x.pt")


def test_a_damaged_record_is_named():
    class Records:
        def __len__(self):
            return 5

        def __getitems__(self, indices):
            if 3 in indices:
                raise RuntimeError("checksum\nmismatch")
            return [{"m0": np.zeros(2, np.uint8), "label": 0} for _ in indices]

    source = RecordSource(Records())
    assert len(source.gather(np.array([0, 4]))["label"]) == 2
    with pytest.raises(ValueError, match=r"example 3 cannot be read \(checksum mismatch\)"):
        source.gather(np.array([4, 3, 0]))
