"""Run every Python block in README.md and docs/, each page top to bottom in one namespace.

`docs/extending.md` changes the library itself, so `test_extending.py` applies it to a copy. If a
page loads a model, an export kept for the tests is put into the folder it names.
"""

import re
import shutil
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from mmebm_jax import training
from tests.commands import small_config

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "runs" / "old_exports" / "format1"
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [
    path
    for path in [ROOT / "README.md", *SITE]
    if "```python\n" in path.read_text() and path.name != "extending.md"
]


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    """A run of a few steps, with its metrics and diagnostics."""
    folder = tmp_path_factory.mktemp("smoke") / "run"
    config = small_config(data__num_train=40, data__num_test=40)
    config.update_from_flattened_dict({"prior.num_components": 2, "prior.fit_steps": 2})
    training.train(training.prepare(config, folder))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pretrained").symlink_to(ROOT / "pretrained")
    text = page.read_text()
    for name in ("runs/polydigits/seed0/private_full", "exports/digits"):
        if name in text and f'"{name}", dtype' not in text:  # not a page that exports there itself
            shutil.copytree(OLD, tmp_path / name)
    if "runs/smoke" in text:
        shutil.copytree(request.getfixturevalue("smoke_run"), tmp_path / "runs" / "smoke")
    examples = list(Sybil(parsers=[PythonCodeBlockParser()]).parse(page).examples())
    assert len(examples) == text.count("```python\n"), "not every block was found"
    for example in examples:
        example.evaluate()


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {str(path.relative_to(ROOT / "docs")) for path in SITE}


def test_every_public_module_is_in_the_reference():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    listed = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "mmebm_jax").rglob("*.py")
        if path.name != "__init__.py" and "bundled" not in path.parts
    }
    assert modules <= listed, sorted(modules - listed)
