"""The model card of an export: what the model is, its scores, and its training data."""

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from mmebm_jax.data import sets
from mmebm_jax.runs.checkpoint import DataFacts
from mmebm_jax.storage.validation import plain

# Column → section of evaluation.json and its entries, of which the first that is present is used.
# Every coherence is reported with a diversity and every distance with its floor.
COLUMNS: dict[str, Sequence[str]] = {
    "joint coherence": ("joint_coherence", "energy", "generator"),
    "cross coherence": ("cross_coherence", "drawn", "mean"),
    "conditional diversity": ("diversity", "conditional"),
    "Fréchet distance": ("frechet", "energy", "generator"),
    "FD floor": ("frechet", "floor"),
}
# Further columns of a comparison, since a data energy may repair what the generator lost.
MORE_COLUMNS: dict[str, Sequence[str]] = {
    "FD before refinement": ("frechet", "generator"),
    "of completions": ("frechet", "conditional"),
}
DATA_HEAD = "## Data"
NO_DATA_LICENCE = "State here what the model was trained on and under which licence."


def model_card(
    workdir: epath.Path,
    config: ConfigDict,
    data: DataFacts,
    facts: Mapping[str, Any],
    licence: str = "",
) -> str:
    """The card as Markdown, with the front matter that model hubs read.

    Args:
      workdir: the run folder; the table comes from its evaluation.json.
      config: the run's configuration.
      data: the run's modalities.
      facts: the content of export.json.
      licence: the model's licence, an SPDX identifier; "" if none is stated.

    Raises:
      ValueError: the licence is not an identifier.
    """
    check_licence(licence)
    head = ["---", "library_name: mmebm_jax", "tags: [energy-based-model, multimodal, vae, jax]"]
    head += [f"license: {licence.lower()}"] if licence else []
    modalities = ", ".join(
        f"{plain(name)} ({field.kind}, {'×'.join(map(str, field.shape))})"
        for name, field in data.fields.items()
    )
    parts = [
        "\n".join([*head, "---"]),
        f"# A multimodal energy-based model of {config.data.name}",
        f"Sampling weights of a run of {facts['step']} steps, exported by "
        f"[mmebm_jax](https://arxiv.org/abs/2605.00644) {facts['library']} in {facts['dtype']}. "
        f"Modalities: {modalities}. Networks that learned: {', '.join(facts['trained']) or 'none'}."
        " Its configuration is in `config.json`.",
        "```text\n"
        "import jax, mmebm_jax\n\n"
        'model = mmebm_jax.load("this/folder")  # or hf://user/name@revision\n'
        "samples = model.sample(jax.random.key(0), num_samples=16)\n"
        "```",
        "## How good",
        scores(workdir, config.seed),
        DATA_HEAD,
        _data_licence(config.data.name, data.version),
        "## Licence",
        licence or "None is stated.",
    ]
    return "\n\n".join(parts) + "\n"


def check_licence(licence: Any) -> None:
    """Check that a licence is an SPDX identifier or "", which states none.

    Raises:
      ValueError: it is neither.
    """
    if not (isinstance(licence, str) and re.fullmatch(r"[A-Za-z0-9.+-]*", licence)):
        raise ValueError(f"licence is {plain(licence)}: give an SPDX identifier, as apache-2.0.")


def scores(workdir: epath.Path, seed: int) -> str:
    """The table row of a run's evaluation.json as Markdown, or a sentence if there is none."""
    path = workdir / "evaluation.json"
    if not path.exists():
        return "Not evaluated before it was exported."
    try:
        result = json.loads(path.read_text())
        numbers = {c: n for c, places in COLUMNS.items() if (n := _entry(result, places))}
        step, count = int(result["step"]), int(result["num_samples"])
        if not numbers:
            raise ValueError("it holds none")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "Its evaluation.json could not be read."
    table = _table(list(numbers), [list(numbers.values())])
    return "\n".join(
        [
            *table,
            "",
            f"At step {step}, {count} samples, one seed ({seed}). Coherence is judged by a trained "
            "classifier; the distance is one of classifier features, not FID, and its floor is "
            "that between training and test data.",
        ]
    )


def with_comparison(card: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """A card with a section, before the one on data, on what compressing the weights costs.

    Args:
      card: from `model_card`.
      results: name of a row → content of an evaluation.json, all with the same run, keys and
        judges.
    """
    columns = COLUMNS | MORE_COLUMNS
    first = next(iter(results.values()))
    names = [name for name, places in columns.items() if _entry(first, places)]
    rows = [
        [plain(row), *(_entry(result, columns[name]) for name in names)]
        for row, result in results.items()
    ]
    section = [
        "## What storing it costs",
        "",
        *_table(["weights", *names], rows),
        "",
        f"The same {int(first['num_samples'])} starts, noise and classifiers for all rows.",
    ]
    return card.replace(f"\n{DATA_HEAD}\n", "\n" + "\n".join([*section, "", DATA_HEAD, ""]), 1)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return [lines[0], f"|{'---|' * len(head)}", *lines[1:]]


def _entry(result: Mapping[str, Any], places: Sequence[str]) -> str:
    section = result.get(places[0])
    if not isinstance(section, Mapping):
        return ""
    value = next((section[name] for name in places[1:] if name in section), None)
    if value is None:
        return ""
    return f"{float(value):.1f}" if places[0] == "frechet" else f"{float(value):.3f}"


def _data_licence(name: str, version: str) -> str:
    module = importlib.import_module(f"{sets.__name__}.{name}")
    licence = getattr(module, "LICENCE", "")
    return f"{name}, version {plain(version)}. {licence or NO_DATA_LICENCE}"
