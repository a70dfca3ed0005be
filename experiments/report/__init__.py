"""`report.html`: one self-contained page about a run, or about all runs of a comparison.

    python -m experiments.main --mode=report --workdir=runs/compare

`collect` reads the run folders, `findings` lists warnings, `pictures` draws samples from the
checkpoints, `figures` draws curves and histograms, `contents` lays out the sections, and `render`
fills the template. The report reads what the runs wrote and, for conditional samples, the test data
if they are available; it writes only `report.html`.
"""

import importlib.util

from etils import epath

from experiments import results
from experiments.report import collect, contents, pictures, render
from mmebm_jax.storage.files import write_whole

NEEDED = "report.html needs Jinja2: pip install 'mmebm_jax[report]'."


def can_write() -> bool:
    """Whether Jinja2 is installed."""
    return importlib.util.find_spec("jinja2") is not None


def write(workdir: epath.Path, *, seed: int = 0) -> epath.Path:
    """Write `report.html` into a folder; returns its path.

    Args:
      workdir: a run folder, or a folder with runs below it, such as that of a comparison.
      seed: seed for sampling.

    Raises:
      FileNotFoundError: there is no run.
      ValueError: Jinja2 is not installed.
    """
    if not can_write():
        raise ValueError(NEEDED)

    def draw(run: collect.Run) -> pictures.Drawn:
        assert run.config is not None
        return pictures.draw(run.folder, run.config, seed)

    runs = collect.collect(workdir)
    page = render.page(contents.contents(workdir, runs, draw, results.made_now()))
    path = workdir / "report.html"
    write_whole(path, page)
    return path
