"""Export a run, measure what low-bit storage costs, and write the result to the model card.

    python -m experiments.export --workdir=runs/polymnist --folder=pretrained/polymnist \\
        --dtype=int6 --licence=CC-BY-SA-3.0 --num_samples=2000

The run and its export are sampled with the same keys and judged by the run's classifiers. If the
run has an evaluation.json, it provides the card's first table.
"""

import logging
from collections.abc import Mapping
from typing import Any

from absl import flags
from etils import epath

from experiments import command_line, measures
from experiments.evaluate import evaluate, prepared, restored
from mmebm_jax.runs import cards, exports, sampler
from mmebm_jax.storage.files import check_folder, write_whole
from mmebm_jax.storage.places import place

LOGGER = logging.getLogger("mmebm_jax")
NUM_SAMPLES = 2000

_FOLDER = flags.DEFINE_string("folder", None, "New folder of the export.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", exports.DTYPES, "How weights are stored.")
_LICENCE = flags.DEFINE_string("licence", "", "Of the model, an SPDX identifier.")
_MEASURE = flags.DEFINE_bool("measure", True, "Measure what the storage costs, for the card.")


def compare(
    workdir: epath.Path, folder: epath.Path, num_samples: int
) -> dict[str, Mapping[str, Any]]:
    """Evaluate a run's weights and its export's, by the name of a row.

    Raises:
      FileNotFoundError: there is no run or no checkpoint.
      ValueError: the data lack what the measures need.
    """
    run, trained, step, classifiers = restored(workdir, num_samples)
    wanted = [measure for measure in measures.MAIN if not measures.lack(measure, run)]
    samplers = {"as trained, float32": trained}
    samplers[f"as stored, {exports.read_facts(folder).dtype}"] = sampler.load(folder)
    results: dict[str, Mapping[str, Any]] = {}
    for name, one in samplers.items():
        LOGGER.info("%s: %d samples", name, num_samples)
        results[name] = evaluate(run, one, step, classifiers, only=wanted)
    return results


def main() -> None:
    """Export, measure, and write the card."""
    if not command_line.WORKDIR.value or not _FOLDER.value:
        command_line.fail("name the run by --workdir and the new folder by --folder.")
    workdir, folder = place(command_line.WORKDIR.value), place(_FOLDER.value)
    num_samples = command_line.NUM_SAMPLES.value or NUM_SAMPLES
    check_folder(folder, "--folder")
    if _MEASURE.value:
        prepared(workdir, num_samples)  # Fail before exporting if measuring is impossible.
    exports.export(workdir, folder, dtype=_DTYPE.value, licence=_LICENCE.value)
    size = sum((folder / name).stat().length for name in exports.FILES)
    print(f"wrote {folder}, {size / 1e6:.1f} MB")
    if _MEASURE.value:
        results = compare(workdir, folder, num_samples)
        path = folder / "README.md"
        write_whole(path, cards.with_comparison(path.read_text(), results))
        print(path.read_text())


if __name__ == "__main__":
    command_line.run(main)
