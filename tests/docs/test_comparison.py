"""The comparison with other libraries claims nothing without a page, a module or a command."""

import re

from tests.test_structure import ROOT

PAGE = ROOT / "docs" / "comparison.md"


def rows():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_every_claim_names_where_it_is_found():
    assert len(rows()) > 20
    for head, *cells in rows():
        assert len(cells) == 3, head
        for cell in cells:
            assert cell == "none" or "](" in cell or "`" in cell, (head, cell)


def test_every_module_of_ours_that_is_named_is_there():
    named = re.findall(r"experiments\.(\w+)|configs/(\w+)\.py", PAGE.read_text())
    assert named
    for experiment, config in named:
        path = f"experiments/{experiment}.py" if experiment else f"configs/{config}.py"
        assert (ROOT / path).exists(), path
