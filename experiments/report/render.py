"""The page itself: what `contents` holds, in the template beside this file."""

from pathlib import Path

from experiments.report.contents import Contents
from experiments.report.pictures import NUM_DRAWS

TEMPLATES = Path(__file__).parent / "templates"


def page(contents: Contents) -> str:
    """One HTML page that refers to nothing outside itself; needs Jinja2.

    Everything is escaped but the figures, which hold nothing from a file but numbers.
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
