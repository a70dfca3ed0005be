"""Render the page: fill the template next to this file with what `contents` returns."""

from pathlib import Path

from experiments.report.contents import Contents
from experiments.report.pictures import NUM_DRAWS

TEMPLATES = Path(__file__).parent / "templates"


def page(contents: Contents) -> str:
    """A self-contained HTML page without external references; needs Jinja2.

    Everything is escaped except the figures, which contain only numbers from files.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html").render(contents._asdict(), num_draws=NUM_DRAWS)
