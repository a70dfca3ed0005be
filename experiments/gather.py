"""Gather the evaluations of trained runs into a file of results, from which tables are rendered.

    python -m experiments.gather --runs=private_full=runs/polymnist \\
        --results=docs/results/polymnist_shipped.json --note='Trained at … by …'

A run's row is named by the text before "=", or by its folder. All runs must have been evaluated by
one version on one machine, which the file records; use the note to say how they were trained.
"""

from typing import Any

from absl import flags
from etils import epath

from experiments import command_line, results
from mmebm_jax.runs import checkpoint
from mmebm_jax.storage.files import read_object
from mmebm_jax.storage.places import place
from mmebm_jax.training.log import read_rows

_RUNS = flags.DEFINE_list(
    "runs", [], "Folders of evaluated runs, each as FOLDER or NAME=FOLDER.", allow_override=True
)
_RESULTS = flags.DEFINE_string(
    "results", None, "File to write, as docs/results/NAME.json.", allow_override=True
)
_NOTE = flags.DEFINE_string("note", "", "What a reader of the table should know beside it.")


def row(given: str) -> dict[str, Any]:
    """The row of a run, given as FOLDER or NAME=FOLDER.

    Raises:
      FileNotFoundError: there is no run, or it has not been evaluated.
      ValueError: its evaluation is damaged or does not say how it was made.
    """
    name, equals, folder = given.rpartition("=")
    workdir = place(folder)
    config = checkpoint.read_config(workdir)
    path = workdir / "evaluation.json"
    mend = f"run experiments.main --workdir={folder} --mode=evaluate"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: {mend}.")
    evaluation = read_object(path, mend)
    if not isinstance(evaluation.get("made"), dict):
        raise ValueError(f"{path} does not say what made it: {mend}.")
    result = {"method": name if equals else workdir.name, "seed": int(config.seed)}
    if (workdir / "metrics.jsonl").exists():  # absent if an export was measured
        result["minutes"] = round(training_minutes(workdir, config.batch_size), 1)
    return result | evaluation


def training_minutes(workdir: epath.Path, batch_size: int) -> float:
    """Duration of a run's logged steps, including compilation and fits between them."""
    minutes, before = 0.0, 0
    for metrics in read_rows(workdir):
        minutes += (metrics["step"] - before) * batch_size / metrics["examples_per_second"] / 60
        before = metrics["step"]
    return minutes


def main() -> None:
    """Write the file of results."""
    if not _RUNS.value or not _RESULTS.value:
        command_line.fail("name runs by --runs and the file by --results.")
    command_line.check_output(_RESULTS)
    rows = [row(given) for given in _RUNS.value]
    made = [one.pop("made") for one in rows]
    if differing := next((one for one in made if one != made[0]), None):
        command_line.fail(
            f"runs were evaluated differently, by {made[0]} and {differing}: evaluate them anew."
        )
    command = f"python -m experiments.gather --runs={','.join(_RUNS.value)}"
    results.write(_RESULTS.value, command, rows, made=made[0], note=_NOTE.value)
    print(f"wrote {_RESULTS.value}")


if __name__ == "__main__":
    command_line.run(main)
