"""A folder of files becomes a data set: every kind of column, and every kind of damage."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mmebm_jax.data import batches, from_arrays, load_data, whole
from mmebm_jax.data.checks import checked
from mmebm_jax.data.source import OBSERVED
from mmebm_jax.modalities.text import spelled

SIZE = 8
CAPTIONS = ("a red square", "a blue square", "the square is red", "the square is blue")


def picture(red, size=(20, 16)):
    """A picture of one uniform colour."""
    return Image.new("RGB", size, (red, 10, 200))


def write(folder, entries, name="metadata.jsonl"):
    """Write a split's metadata as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def make(root, count=12, num_test=4, **columns):
    """A folder of one-coloured pictures; `columns` are functions of an example's number."""
    for split, numbers in {"train": range(count), "test": range(num_test)}.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        entries = []
        for number in numbers:
            picture(20 * number).save(root / split / f"{number}.png")
            entry = {"file_name": f"{number}.png"}
            entries.append(entry | {name: make_one(number) for name, make_one in columns.items()})
        write(root / split, entries)
    return root


@pytest.fixture
def load(tmp_path):
    """Load the data set of a folder, prepared under the test's own folder."""

    def load(root, **options):
        options = {"image_size": SIZE, "data_dir": str(tmp_path / "prepared")} | options
        return load_data("folder", path=str(root), **options)

    return load


def by_colour(batch):
    """The rows of a batch in the order of the numbers that `make` gave them."""
    return np.argsort(batch["image"][:, 0, 0, 0])


def test_every_kind_of_column_becomes_its_modality(tmp_path, load):
    root = make(
        tmp_path / "data",
        text=lambda n: CAPTIONS[n % 4],
        weight=lambda n: n,
        place=lambda n: [n, -n, 5],
        colour=lambda n: n % 3,
        label=lambda n: ("cat", "dog")[n % 2],
    )
    splits = checked(load(root, categories="colour"))
    checked(load(root, categories="colour", in_memory=False))
    assert {name: tuple(field) for name, field in splits.fields.items()} == {
        "image": ("image", (SIZE, SIZE, 3)),
        "text": ("text", (32, 9)),
        "weight": ("vector", (1,)),
        "place": ("vector", (3,)),
        "colour": ("category", (3,)),
    }
    assert splits.num_classes == 2
    batch = whole(splits.train)
    rows = by_colour(batch)
    np.testing.assert_array_equal(batch["image"][rows, 3, 5, 0], 20 * np.arange(12))
    assert spelled(batch["text"][rows], splits.alphabet) == [CAPTIONS[n % 4] for n in range(12)]
    np.testing.assert_allclose(batch["weight"][rows, 0], np.linspace(-1, 1, 12), atol=1e-6)
    np.testing.assert_allclose(batch["place"][rows, 1], np.linspace(1, -1, 12), atol=1e-6)
    assert not batch["place"][:, 2].any()
    assert batch["colour"][rows].tolist() == [n % 3 for n in range(12)]
    assert batch["label"][rows].tolist() == [n % 2 for n in range(12)]
    # The test split is scaled to the range of the training split, not its own.
    test = whole(splits.test)
    np.testing.assert_allclose(test["weight"].max(), 2 * 3 / 11 - 1, atol=1e-6)
    assert OBSERVED not in batch


def test_it_is_prepared_once_and_anew_when_the_metadata_change(tmp_path, load, monkeypatch):
    root = make(tmp_path / "data", text=lambda n: CAPTIONS[n % 4])
    with pytest.raises(ValueError, match=r"is not prepared in .* yet: training prepares it, once"):
        load(root, prepare=False)
    first = load(root)
    again = load(root, prepare=False)
    for name, values in whole(first.train).items():
        np.testing.assert_array_equal(values, whole(again.train)[name])
    assert first.version == again.version
    # Reading from disk gives the same.
    streamed = load(root, in_memory=False, prepare=False)
    for name, values in whole(first.train).items():
        np.testing.assert_array_equal(values, whole(streamed.train)[name])
    # The prepared data outlive their folder, until other metadata appear there.
    moved = root.rename(tmp_path / "elsewhere")
    assert load(root, prepare=False).version == first.version
    moved.rename(root)
    write(root / "test", [{"file_name": "0.png", "text": "a bird"}])
    changed = load(root)
    assert changed.version != first.version
    assert len(changed.test) == 1


def test_nothing_half_written_stays(tmp_path, load):
    root = make(tmp_path / "data")
    (root / "test" / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"test/3\.png cannot be read as a picture"):
        load(root)
    left = [path for path in (tmp_path / "prepared").rglob("*") if path.is_file()]
    assert left == []


def test_alternatives_take_turns_over_the_passes(tmp_path, load):
    words = ("one", "two", "three")
    captions = [[f"word{n} {word}" for word in words[: 1 + n % 3]] for n in range(12)]
    root = make(tmp_path / "data", text=lambda n: captions[n])
    splits = load(root)
    read = batches(splits.train, 4, seed=0)
    seen = [[] for _ in range(12)]
    for step in range(3 * 6):  # six passes
        batch = read[step]
        texts = spelled(batch["text"], splits.alphabet)
        for red, text in zip(batch["image"][:, 0, 0, 0], texts, strict=True):
            seen[red // 20].append(text)
    for number, texts in enumerate(seen):
        own = captions[number]
        assert len(texts) == 6
        assert {text: texts.count(text) for text in own} == dict.fromkeys(own, 6 // len(own))
    # Examples are not synchronised: in a given pass they are at different alternatives.
    assert len({captions[n].index(seen[n][0]) for n in range(2, 12, 3)}) > 1
    # Outside of passes, it is always the first alternative.
    batch = whole(splits.train)
    texts = spelled(batch["text"], splits.alphabet)
    assert [texts[i] for i in by_colour(batch)] == [c[0] for c in captions]


def test_a_missing_entry_is_a_missing_modality(tmp_path, load):
    root = make(tmp_path / "data", text=lambda n: None if n == 5 else CAPTIONS[n % 4], size=float)
    entries = [json.loads(line) for line in (root / "train/metadata.jsonl").open()]
    del entries[2]["file_name"]
    entries[3]["size"] = None
    entries[4]["text"] = ""
    write(root / "train", entries)
    batch = whole(load(root).train)
    missing = {"image": {2}, "text": {4, 5}, "size": {3}}
    assert batch[OBSERVED].shape == (12, 3)
    assert {n: int((~batch[OBSERVED][:, i]).sum()) for i, n in enumerate(missing)} == {
        "image": 1,
        "text": 2,
        "size": 1,
    }
    for column, name in enumerate(missing):
        assert not batch[name][~batch[OBSERVED][:, column]].any()
        assert batch[name][batch[OBSERVED][:, column]].any()
    reds = batch["image"][:, 0, 0, 0][~batch[OBSERVED][:, 1]]
    assert sorted(reds.tolist()) == [80, 100]


def test_one_metadata_file_with_a_split_column(tmp_path, load):
    entries = [
        {"text": CAPTIONS[n % 4], "size": n, "part": ("train", "test", "validation")[n % 3]}
        for n in range(12)
    ]
    write(tmp_path / "data", entries)
    splits = load(tmp_path / "data", split_column="part")
    assert (len(splits.train), len(splits.test)) == (4, 4)
    assert set(splits.fields) == {"text", "size"}
    other = load(tmp_path / "data", split_column="part", test_split="validation")
    sizes = [sorted(whole(s.test)["size"][:, 0].tolist()) for s in (splits, other)]
    assert sizes[0] != sizes[1]


def test_an_underscore_makes_no_number(tmp_path, load):
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "metadata.csv").write_text("a,b\n1_000,1\n2_0.5,2\n")
    fields = load(tmp_path / "data").fields
    assert {name: field.kind for name, field in fields.items()} == {"a": "text", "b": "vector"}


def test_a_table_of_commas_is_read_as_the_lines_are(tmp_path, load):
    root = make(tmp_path / "data", text=lambda n: CAPTIONS[n % 4], size=float, at=lambda n: [n, 1])
    expected = whole(load(root).train)
    for split in ("train", "test"):
        entries = [json.loads(line) for line in (root / split / "metadata.jsonl").open()]
        (root / split / "metadata.jsonl").unlink()
        lines = ["file_name,text,size,at"]
        lines += ['{file_name},"{text}",{size},"{at}"'.format(**entry) for entry in entries]
        (root / split / "metadata.csv").write_text("\n".join(lines) + "\n")
    found = whole(load(root).train)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_arrays_are_read_likewise(tmp_path, load):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in {"train": 10, "test": 5}.items():
        arrays[split] = {
            "image": rng.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8),
            "thumbnail": rng.integers(0, 256, (count, 16, 12)).astype(np.uint8),
            "text": np.array([CAPTIONS[n % 4] for n in range(count)]),
            "size": np.arange(count) / 2,
            "label": np.arange(count) % 5,
        }
        (tmp_path / "data" / split).mkdir(parents=True)
        np.savez(tmp_path / "data" / split / "metadata.npz", **arrays[split])
    splits = load(tmp_path / "data")
    batch = whole(splits.train)
    order = np.argsort(batch["size"][:, 0])
    np.testing.assert_array_equal(batch["image"][order], arrays["train"]["image"])
    assert batch["thumbnail"].shape == (10, SIZE, SIZE, 3)
    assert spelled(batch["text"][order], splits.alphabet) == list(arrays["train"]["text"])
    assert batch["label"][order].tolist() == arrays["train"]["label"].tolist()


PICTURES = np.zeros([6, SIZE, SIZE, 3], np.uint8)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("c", np.arange(6) * 1.0, r"array 'c' is float64 .*: give whole numbers from 0 on, \[N\]"),
        ("c", np.arange(6)[:, None], r"array 'c' is int64 of shape \[6, 1\]: give whole numbers"),
        ("c", np.array(["r"] * 6), r"array 'c' is <U1 .*: give whole numbers from 0 on, \[N\]"),
        ("label", PICTURES, r"array 'label' is uint8 .*: give whole numbers from 0 on or names"),
        ("x", PICTURES.transpose(0, 3, 1, 2), r"'x' is uint8 of shape \[6, 3, 8, 8\]: .*C 1, 3 or"),
        ("x", PICTURES[..., :2], r"'x' is uint8 of shape \[6, 8, 8, 2\]: .* C 1, 3 or 4"),
        ("x", PICTURES[:, :0], r"'x' is uint8 of shape \[6, 0, 8, 3\]: give pictures"),
        (
            "file_name",
            np.array(["a.png"] * 6),
            r"'file_name' names files, and arrays hold pictures",
        ),
    ],
)
def test_arrays_that_are_none_of_these_are_named(tmp_path, load, name, array, message):
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        arrays = {"c": np.arange(6) % 2} | {name: array}
        np.savez(tmp_path / "data" / split / "metadata.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "data", categories="c")
    assert "\n" not in str(caught.value)


def test_a_label_may_be_a_list(tmp_path):
    arrays = {"size": np.arange(6.0), "label": ["cat", "dog"] * 3}
    assert from_arrays(arrays, arrays).num_classes == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"columns": "text,vv"},
            r"config\.data\.columns names 'vv', which no column is: there are",
        ),
        ({"categories": "colour"}, r"config\.data\.categories names 'colour', which no column is"),
        ({"label": "clas"}, r"config\.data\.label is 'clas', which no column is"),
        ({"test_split": "train"}, r"train_split and test_split are both 'train': name two splits"),
        ({"smallest_count": 99}, r"no word of text stands 99 times in train"),
    ],
)
def test_what_no_column_fits_is_named(tmp_path, load, options, message):
    root = make(tmp_path / "data", text=lambda n: CAPTIONS[n % 4], klass=lambda n: n % 2)
    with pytest.raises(ValueError, match=message):
        load(root, **options)
    # A dry run gives the same error, before the one that nothing is prepared.
    with pytest.raises(ValueError, match=message):
        load(root, prepare=False, **options)


def test_columns_can_be_chosen(tmp_path, load):
    root = make(tmp_path / "data", text=lambda n: CAPTIONS[n % 4], odd=lambda n: {"a": 1})
    with pytest.raises(ValueError, match=r"column 'odd' holds \{'a': 1\}.*config.data.columns"):
        load(root)
    assert list(load(root, columns="image, text").fields) == ["image", "text"]


def test_a_longer_caption_is_cut_and_counted(tmp_path, load, caplog):
    root = make(tmp_path / "data", text=lambda n: "a b c d e f" if n == 3 else "a b c")
    splits = load(root, length=5)
    batch = whole(splits.train)
    texts = spelled(batch["text"], splits.alphabet)
    assert sorted(set(texts)) == ["a b c", "a b c d"]
    assert (batch["text"][:, -1] <= 1).all()  # ends with <eos> or padding
    assert "2 texts are longer than 4 words" in caplog.text


def test_a_vocabulary_above_the_bound_loses_its_rarest_words(tmp_path, load, caplog):
    root = make(tmp_path / "data", text=lambda n: "the the bird" if n else "the unique bird")
    splits = load(root, vocabulary_size=5)
    assert splits.alphabet == ("<pad>", "<eos>", "<unk>", "the", "bird")
    assert "1 words are beyond the 5 of config.data.vocabulary_size" in caplog.text
    assert "the <unk> bird" in spelled(whole(splits.train)["text"], splits.alphabet)
    seen = load(root, smallest_count=2)
    assert seen.alphabet == splits.alphabet


def test_a_smaller_picture_is_enlarged_and_counted(tmp_path, load, caplog):
    load(make(tmp_path / "data"), image_size=32)
    assert "16 pictures are smaller than 32: enlarged" in caplog.text


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"a": 1}, {"b": 1}, r"no modality in common: train has \['a'\], test has \['b'\]"),
        ({"a": 1, "b": 1}, {"a": 1}, r"modality 'b' is in train alone"),
        ({"a": 1}, {"a": "x"}, r"modality 'a' is vector in train and text in test"),
        ({"a": 1, "c": 0}, {"a": 1, "c": 1}, r"'c' is 1 in the test split .*never is"),
        ({"a": 1, "label": "x"}, {"a": 1, "label": "y"}, r"'label' is 'y' in the test split .*''"),
        ({"a": 1, "c": -1}, {"a": 1, "c": 0}, r"'c' is -1: give a whole number from 0 on"),
        ({"a": 1, "c": 0.5}, {"a": 1, "c": 0}, r"'c' is 0\.5: give a whole number"),
        ({"a": [1, 2]}, {"a": 1}, r"'a' has 1 numbers, others have 2"),
        ({"a": 10**400}, {"a": 1}, r"'a' holds a number that is not finite"),
        ({"text": ["", ""]}, {"a": 1}, r"has no modality|no modality in common"),
        ({"a": [1, "x"]}, {"a": 1}, r"column 'a' holds \[1, 'x'\]: give text"),
        ({"a": 1, "a_file_name": "x.png"}, {"a": 1}, r"two columns are the modality 'a'"),
        ({"file_name": 3}, {"a": 1}, r"'file_name' is 3: give a file's name"),
        ({"a b": 1}, {"a b": 1}, r"modality 'a b': a name must be a word"),
        ({}, {}, r"has no modality: mend it, or set config\.data\.skip_damaged|no modality in"),
    ],
)
def test_what_no_data_set_can_be_made_of_is_one_line(tmp_path, load, train, test, message):
    for split, entry in {"train": train, "test": test}.items():
        write(tmp_path / "data" / split, [entry])
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "data", categories="c" if "c" in train else "")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "prepared").rglob("*.array_record*"))


def test_missing_folders_and_files_are_named(tmp_path, load):
    with pytest.raises(ValueError, match=r"path is empty: name the folder in config\.data\.path"):
        load("")
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        load(tmp_path / "nowhere")
    root = make(tmp_path / "data")
    shutil.move(root / "test", tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"data/test holds no metadata\.jsonl"):
        load(root)
    shutil.move(tmp_path / "away", root / "test")
    (root / "train" / "metadata.csv").write_text("file_name\n0.png\n")
    with pytest.raises(ValueError, match=r"holds metadata\.jsonl and metadata\.csv: keep one"):
        load(root)
    (root / "train" / "metadata.csv").rename(root / "metadata.csv")
    with pytest.raises(ValueError, match=r"there are .*data/metadata\.csv and .*train/metadata\."):
        load(root)
    (root / "metadata.csv").unlink()
    (root / "train" / "metadata.jsonl").unlink()
    for content, message in {
        "a,b\n1,2\n".encode("utf-16"): r"metadata\.csv is UTF-16: save it as UTF-8",
        b",a\n0,1\n": r"metadata\.csv: column 1 has no name: name it, or .* index=False",
    }.items():
        (root / "train" / "metadata.csv").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load(root)


def test_a_split_column_of_other_names_is_said(tmp_path, load):
    write(tmp_path / "data", [{"text": "a", "split": name} for name in ("Train", "Test")])
    with pytest.raises(
        ValueError, match=r"column 'split' is never 'train', but \['Test', 'Train'\]"
    ):
        load(tmp_path / "data")


BROKEN = {
    b'{"size": 1': r"line 2 is no JSON",
    b"[1]": r"line 2 is no JSON object",
    b'{"size": 1, "size": 2}': r"line 2 is no JSON \(a name stands in it twice\)",
    b'{"text": "caf\xe9", "size": 1}': r"line 2: is not UTF-8",
    b'{"text": "\\ud800", "size": 1}': r"line 2: is not UTF-8",
    b'{"size": 1e999}': r"line 2: 'size' holds a number that is not finite",
    b'{"file_name": "gone.png"}': r"line 2: .*gone\.png is missing",
}


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_damaged_line_is_named_or_left_out(tmp_path, load, caplog, line):
    good = b'{"text": "a bird", "size": 1, "file_name": "0.png"}'
    root = tmp_path / "data"
    for split in ("train", "test"):
        write(root / split, [])
        picture(20).save(root / split / "0.png")
        (root / split / "metadata.jsonl").write_bytes(good + b"\n")
    (root / "train" / "metadata.jsonl").write_bytes(b"\n".join([good, line, good]))
    with pytest.raises(ValueError, match=BROKEN[line]) as caught:
        load(root)
    assert "\n" not in str(caught.value)
    assert "train/metadata.jsonl line 2" in str(caught.value)
    splits = load(root, skip_damaged=True)
    assert len(splits.train) == 2
    assert "left out: " in caplog.text
    assert "line 2" in caplog.text
