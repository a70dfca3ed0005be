"""What happens to the existing evaluation in a folder when the run is evaluated again."""

import json

import pytest
from etils import epath

from experiments import evaluate


def result(*measures):
    return {"measure_seconds": dict.fromkeys(measures, 1.0)}


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return epath.Path(tmp_path)


def read(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("later", [("joint",), (), ("other",)])
def test_measures_that_are_not_measured_again_are_kept(folder, later, caplog):
    evaluate.write(folder, result("joint", "cross"))
    before = read(folder)["evaluation.json"]
    evaluate.write(folder, result(*later))
    assert read(folder)["evaluation_1.json"] == before
    assert json.loads(read(folder)["evaluation.json"]) == result(*later)
    assert "evaluation_1.json" in caplog.text
    assert "cross" in caplog.text


def test_no_kept_file_is_written_over(folder):
    for measures in (("a", "b"), ("c",), ("d",)):
        evaluate.write(folder, result(*measures))
    assert sorted(read(folder)) == ["evaluation.json", "evaluation_1.json", "evaluation_2.json"]


def test_the_same_measures_replace_the_file(folder):
    evaluate.write(folder, result("joint"))
    evaluate.write(folder, result("joint", "cross"))
    assert list(read(folder)) == ["evaluation.json"]


def test_what_cannot_be_read_is_kept(folder):
    (folder / "evaluation.json").write_text("{")
    evaluate.write(folder, result("joint"))
    assert read(folder)["evaluation_1.json"] == "{"
