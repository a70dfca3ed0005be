"""The official layouts of published data sets, reproduced in small folders."""

import gzip
import json
import struct

import numpy as np
import pytest
from PIL import Image
from scipy import io

from mmebm_jax.data import load_data, whole
from mmebm_jax.data.layouts import clevr, layout
from mmebm_jax.data.rows import Damage, Reading
from mmebm_jax.modalities.text import spelled

SIZE = 8


def picture(path, shade=100, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def captions(count=10):
    return [f"this bird has {n} wings" for n in range(count)]


def cub(root):
    classes = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    for number, name in enumerate(classes):
        for stem in ("A_0001_1", "A_0002_2"):
            picture(root / "CUB_200_2011" / "images" / name / f"{stem}.jpg", 40 * number)
            text(root / "text_c10" / name / f"{stem}.txt", *captions())
    text(root / "trainvalclasses.txt", *classes[:2])
    text(root / "testclasses.txt", classes[2])


def cub_joined(root):
    for split, count in {"train": 3, "test": 2}.items():
        for number in range(count):
            picture(root / split / f"00{number}.Bird" / f"{number}.jpg", 40 * number)
    text(root / "text_trainvalclasses.txt", *captions(30))
    text(root / "text_testclasses.txt", *captions(20))


def coco(root, year="2014"):
    for split, count in {"train": 4, "val": 2}.items():
        images = [{"id": 10 + n, "file_name": f"COCO_{split}{n}.jpg"} for n in range(count)]
        for image in images:
            picture(root / f"{split}{year}" / image["file_name"])
        annotations = [
            {"id": 100 * n + k, "image_id": 10 + n, "caption": f"A dog number {k}. "}
            for n in range(count)
            for k in range(5)
        ]
        content = {"info": {}, "images": images, "licenses": [], "annotations": annotations}
        text(root / "annotations" / f"captions_{split}{year}.json", json.dumps(content))


def celeba(root):
    for number in range(1, 6):
        picture(root / "img_align_celeba" / f"00000{number}.jpg", size=(178, 218))
    lines = [f"00000{n}.jpg -1  1 {'-1' if n % 2 else ' 1'}" for n in range(1, 6)]
    text(root / "list_attr_celeba.txt", "5", "Bald Smiling Young ", *lines)
    parts = (0, 0, 0, 1, 2)
    text(
        root / "list_eval_partition.txt",
        *(f"00000{n}.jpg {part}" for n, part in enumerate(parts, 1)),
    )


def thing(column, colour, size="small", material="metal", shape="cube"):
    return {
        "pixel_coords": [column, 100, 9.5],
        "color": colour,
        "size": size,
        "material": material,
        "shape": shape,
        "3d_coords": [0, 0, 0],
        "rotation": 0.0,
    }


def clevr_scenes(root):
    for split, count in {"train": 3, "val": 2}.items():
        scenes = []
        for number in range(count):
            name = f"CLEVR_{split}_{number:06d}.png"
            picture(root / "images" / split / name, size=(48, 32))
            objects = [thing(200, "red"), thing(100, "blue", "large", "rubber", "sphere")]
            scenes.append({"image_filename": name, "objects": objects, "split": split})
        text(root / "scenes" / f"CLEVR_{split}_scenes.json", json.dumps({"scenes": scenes}))


def idx(path, array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def mnist_svhn(root):
    root.mkdir(parents=True)
    for split, prefix in {"train": "train", "test": "t10k"}.items():
        labels = np.arange(20) % 10
        images = np.broadcast_to(10 * labels[:, None, None], (20, 28, 28))
        idx(root / f"{prefix}-images-idx3-ubyte.gz", images)
        idx(root / f"{prefix}-labels-idx1-ubyte.gz", labels)
        # Class 10 is the digit 0. There is one example of each class, but three of the digit 0.
        classes = np.array([10, 10, *range(1, 11)])
        houses = np.broadcast_to((classes % 10 * 20)[None, None, None], (32, 32, 3, 12))
        content = {"X": houses.astype(np.uint8), "y": classes[:, None].astype(np.uint8)}
        io.savemat(root / f"{split}_32x32.mat", content)


MAKERS = {
    "cub": cub,
    "coco2014": coco,
    "coco2017": lambda root: coco(root, "2017"),
    "celeba": celeba,
    "clevr": clevr_scenes,
    "mnist_svhn": mnist_svhn,
}


def load(tmp_path, name, **options):
    options = {"image_size": SIZE, "data_dir": str(tmp_path / "prepared")} | options
    return load_data("folder", path=str(tmp_path / "data"), layout=name, **options)


def test_cub_with_ten_captions_in_a_file(tmp_path):
    cub(tmp_path / "data")
    splits = load(tmp_path, "cub")
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert splits.num_classes == 0
    # No class appears in both splits.
    assert set(whole(splits.train)["image"].mean(axis=(1, 2, 3))) == {0, 40}
    assert set(whole(splits.test)["image"].mean(axis=(1, 2, 3))) == {80}
    assert spelled(whole(splits.test)["text"][:1], splits.alphabet) == ["this bird has 0 wings"]


def test_cub_with_captions_one_after_the_other(tmp_path):
    cub_joined(tmp_path / "data")
    tables = layout("cub").read(Reading(tmp_path / "data", Damage(skip=False)))
    assert (len(tables.train), len(tables.test)) == (3, 2)
    for number, row in enumerate(tables.train):
        assert row.values["image"].path.name == f"{number}.jpg"
        assert row.values["text"] == tuple(captions(30)[10 * number : 10 * number + 10])
    text(tmp_path / "data" / "text_testclasses.txt", *captions(19))
    with pytest.raises(ValueError, match=r"has 19 captions for the 2 pictures of .*get MMVAE's"):
        load(tmp_path, "cub")


def test_words_must_be_seen_often_enough(tmp_path):
    cub(tmp_path / "data")
    splits = load(tmp_path, "cub", smallest_count=5)
    assert set(splits.alphabet[3:]) == {"this", "bird", "has", "wings"}
    assert splits.fields["text"].shape == (32, 7)


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco(tmp_path, year):
    coco(tmp_path / "data", year)
    splits = load(tmp_path, f"coco{year}")
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert spelled(whole(splits.test)["text"][:1], splits.alphabet) == ["a dog number 0 ."]


def test_celeba(tmp_path):
    celeba(tmp_path / "data")
    splits = load(tmp_path, "celeba")
    assert (len(splits.train), len(splits.test)) == (3, 1)
    batch = whole(splits.train)
    assert sorted(batch["attributes"].tolist()) == [[-0.0, 0.0, -1.0]] * 2 + [[0.0, 0.0, 1.0]]
    plain = whole(load(tmp_path, "celeba", scale_vectors=False).train)
    assert sorted(plain["attributes"].tolist()) == [[-1, 1, -1]] * 2 + [[-1, 1, 1]]


def test_clevr(tmp_path):
    clevr_scenes(tmp_path / "data")
    splits = load(tmp_path, "clevr", scale_vectors=False)
    assert (len(splits.train), len(splits.test)) == (3, 2)
    batch = whole(splits.test)
    sentence = "large blue rubber sphere , small red metal cube"
    assert spelled(batch["text"], splits.alphabet) == [sentence] * 2
    names = [value for values in clevr.ATTRIBUTES.values() for value in values]
    counts = dict(zip(names, batch["attributes"][0], strict=True))
    present = {"large", "small", "blue", "red", "rubber", "metal", "sphere", "cube"}
    assert {name for name, count in counts.items() if count} == present


def test_mnist_svhn_text(tmp_path):
    mnist_svhn(tmp_path / "data")
    splits = load(tmp_path, "mnist_svhn", image_size=32, in_memory=False)
    # Two of each digit, and one of each house number except three of 0: 20 pairings.
    assert len(splits.train) == 20 * (9 * 1 + 2)
    assert splits.num_classes == 10
    batch = whole(splits.train)
    digits = batch["label"]
    np.testing.assert_array_equal(batch["mnist"].mean(axis=(1, 2, 3)), 10 * digits)
    np.testing.assert_array_equal(batch["svhn"].mean(axis=(1, 2, 3)), 20 * digits)
    words = spelled(batch["text"], splits.alphabet)
    assert words[int(np.argmax(digits == 3))] == "three"


REQUIRED = {
    "cub": ("CUB_200_2011", "text_c10", "testclasses.txt"),
    "coco2014": ("annotations/captions_val2014.json", "train2014"),
    "coco2017": ("annotations/captions_train2017.json",),
    "celeba": ("list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"),
    "clevr": ("scenes/CLEVR_val_scenes.json", "images/train"),
    "mnist_svhn": ("train_32x32.mat", "t10k-labels-idx1-ubyte.gz"),
}


@pytest.mark.parametrize(("name", "lost"), [(n, f) for n, files in REQUIRED.items() for f in files])
def test_a_missing_file_is_named_with_where_to_get_it(tmp_path, name, lost):
    MAKERS[name](tmp_path / "data")
    (tmp_path / "data" / lost).rename(tmp_path / "lost")
    with pytest.raises(FileNotFoundError, match=r"is missing: get ") as caught:
        load(tmp_path, name)
    assert lost in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "prepared").rglob("*") if path.is_file()]


WRONG = {
    "coco2014": "annotations/captions_val2014.json",
    "celeba": "list_attr_celeba.txt",
    "clevr": "scenes/CLEVR_val_scenes.json",
    "mnist_svhn": "test_32x32.mat",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_named_with_where_to_get_it(tmp_path, name):
    MAKERS[name](tmp_path / "data")
    text(tmp_path / "data" / WRONG[name], "[1, 2]", "a b", "c d")
    with pytest.raises(ValueError, match=r": get ") as caught:
        load(tmp_path, name)
    assert WRONG[name] in str(caught.value)
    assert "\n" not in str(caught.value)
