"""Tables in README.md and docs/ are rendered from files of results and up to date."""

import json
from pathlib import Path

import pytest

from experiments import render, results
from mmebm_jax import method
from tests.commands import assert_one_line, run_here

ROOT = Path(__file__).parents[2]
FILES = sorted(path for pattern in render.FILES for path in ROOT.glob(pattern))


def make_result(folder, rows, **changes):
    path = folder / "some.json"
    results.write(path, "make some", rows)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_table_is_current(path):
    text = path.read_text()
    assert render.rendered(text) == text, "run python -m experiments.render"


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "results").glob("*.json")), ids=str)
def test_every_file_of_results_says_what_made_it(path):
    assert results.read(path)["rows"]


def test_seeds_are_averaged_and_a_missing_number_stays_empty(tmp_path):
    rows = [
        {"method": "a", "seed": 0, "joint_coherence": {"energy": 0.5, "generator": 0.1}},
        {"method": "a", "seed": 1, "joint_coherence": {"energy": 0.7}},
        {"method": "b", "seed": 0, "joint_coherence": {"generator": 0.25}, "step": 1200},
        {"method": "c", "joint_coherence": {"generator": [0.9, 0.01]}},
        {"method": "d", "seed": 0, "joint_coherence": {"generator": 0.5}},
        {"method": "d", "seed": 1},
    ]
    make_result(tmp_path, rows)
    text = "before\n<!-- table: some.json joint,steps -->\nold\n<!-- end -->\nafter\n"
    lines = render.rendered(text, tmp_path).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert cells[0] == ["method", "joint coherence", "steps"]
    assert cells[2:] == [
        ["a", ".600 ± .141", ""],
        ["b", ".250", "1200"],
        ["c", ".900 ± .010", ""],
        ["d", ".500 (1 of 2)", ""],
    ]
    assert "old" not in lines
    assert (lines[0], lines[-1]) == ("before", "after")
    assert render.rendered("\n".join(lines), tmp_path) == "\n".join(lines)


def test_results_of_another_method_say_so(tmp_path):
    row = [{"method": "a", "step": 1}]
    current = render.caption(results.read(make_result(tmp_path, row)))
    assert "make some" in current
    assert "(now " not in current
    older = make_result(tmp_path, row, method_revision=method.REVISION - 1)
    assert f"(now {method.REVISION})" in render.caption(results.read(older))


def whole(rows):
    return json.dumps(dict.fromkeys(results.REQUIRED, "") | {"rows": rows})


TABLE = "<!-- table: some.json {} -->\n<!-- end -->\n"


@pytest.mark.parametrize(
    ("content", "marker", "named"),
    [
        (json.dumps({"rows": []}), TABLE.format("joint"), "some.json lacks command, version"),
        (whole([]), TABLE.format("depth"), "columns depth: choose from joint"),
        (whole([]), TABLE.format("joint").replace("some", "no"), "no.json does not exist"),
        ('{"rows": [', TABLE.format("joint"), "some.json is damaged"),
        ("[1]", TABLE.format("joint"), "some.json is damaged (it holds no JSON object)"),
        (whole([{"step": 1}]), TABLE.format("steps"), "some.json has rows without a method"),
        (
            whole([{"method": "a", "step": 1}]),
            TABLE.format("steps,joint"),
            "some.json: no row has joint: take the column out",
        ),
        (
            whole([{"method": "a", "step": {}}]),
            TABLE.format("steps"),
            "some.json has rows of other columns",
        ),
        (
            whole([{"method": "a"}]),
            "<!-- figure: docs/energy_loss.json -->\n<!-- end -->\n",
            "energy_loss.json has rows of other columns (KeyError: 'shared generator')",
        ),
        (
            whole([{"method": "a"}]),
            "<!-- figure: docs/some.json -->\n<!-- end -->\n",
            "figure some: choose one of",
        ),
    ],
)
def test_what_cannot_be_rendered_is_one_line(tmp_path, monkeypatch, capsys, content, marker, named):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(marker)
    (tmp_path / "README.md").write_text("<!-- table: good.json steps -->\nold\n<!-- end -->\n")
    (tmp_path / "good.json").write_text(
        whole([{"method": "a", "step": 1}]).replace('"method_revision": ""', '"method_revision": 0')
    )
    for path in ("some.json", "docs/some.json", "docs/energy_loss.json"):
        (tmp_path / path).write_text(content)
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(render.rendered, "__defaults__", (tmp_path,))
    _, line = run_here(capsys, program=render)
    assert_one_line(line, "docs/page.md cannot be rendered", named)
    assert "old" in (tmp_path / "README.md").read_text()  # all pages are written, or none
