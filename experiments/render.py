"""Render the tables and figures of README.md and docs/ from the files of results in docs/results/.

    python -m experiments.render            # rewrites what stands between the markers
    python -m experiments.render --check    # only says whether it is current

A figure of `experiments.figures` goes between `<!-- figure: docs/results/figures/NAME.json -->` and
`<!-- end -->`: its picture, a sentence that says what it shows, with numbers, and how it was made.
A table goes between `<!-- table: docs/results/NAME.json COLUMNS -->` and `<!-- end -->`, where
COLUMNS is a comma-separated list of names from `COLUMNS`. Rows of one method are averaged over
seeds.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from tabulate import tabulate

from experiments import command_line, results
from experiments.figures import registry
from mmebm_jax import method

ROOT = Path(__file__).parent.parent
FILES = ("README.md", "docs/*.md")
MARKED = re.compile(r"(<!-- table: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
FIGURE = re.compile(r"(<!-- figure: docs/(\S+)\.json -->\n).*?(<!-- end -->)", re.DOTALL)

_CHECK = flags.DEFINE_bool(
    "check", False, "Write nothing; end with status 1 if something is stale."
)


class Column(NamedTuple):
    """A column: its header, the paths to its value in a row (the first that exists), and digits."""

    head: str
    paths: tuple[str, ...]
    digits: int = 3


COLUMNS = {
    "joint": Column("joint coherence", ("joint_coherence.energy", "joint_coherence.generator")),
    "joint_generator": Column("joint, generator", ("joint_coherence.generator",)),
    "cross": Column("cross coherence", ("cross_coherence.mean",)),
    "cross_mean": Column("cross, expert's mean", ("cross_coherence.expert_mean",)),
    "cross_revised": Column("cross, revised", ("cross_coherence.posterior_revised",)),
    "drawn": Column("cross, as drawn", ("cross_coherence.drawn",)),
    "time": Column("time of samples", ("protocol.refinement_time",), 2),
    "class_picture": Column("class of pictures drawn", ("cross_coherence.drawn_by_target.image",)),
    "class_text": Column("class of texts drawn", ("cross_coherence.drawn_by_target.text",)),
    "accuracy_picture": Column("of real pictures", ("classifier_accuracy.image",)),
    "joint_base": Column("joint, without energies", ("joint_coherence.base_prior",)),
    "joint_chain": Column("joint, data chain", ("joint_coherence.chain",)),
    "diversity": Column("conditional diversity", ("diversity.conditional",)),
    "frechet": Column("Fréchet distance", ("frechet.energy", "frechet.generator"), 1),
    "frechet_base": Column("FD, without energies", ("frechet.base_prior",), 1),
    "frechet_chain": Column("FD, data chain", ("frechet.chain",), 1),
    "frechet_generator": Column("FD before refinement", ("frechet.generator",), 1),
    "frechet_conditional": Column("FD, conditional", ("frechet.conditional",), 1),
    "frechet_reconstruction": Column("FD, reconstruction", ("frechet.reconstruction",), 1),
    "floor": Column("FD floor", ("frechet.floor",), 1),
    "log_likelihood": Column("log-likelihood, nats", ("log_likelihood.test.mean",), 0),
    "retrieval_real": Column("retrieval, real pairs", ("retrieval.mean.real",)),
    "retrieval_joint": Column("samples", ("retrieval.mean.joint",)),
    "retrieval_pictures": Column("pictures drawn", ("retrieval.mean.pictures_drawn",)),
    "retrieval_others": Column("others drawn", ("retrieval.mean.others_drawn",)),
    "retrieval_chance": Column("chance", ("retrieval.chance",)),
    "attributes_real": Column("attributes, real pictures", ("attributes.mean.real",)),
    "attributes_pictures": Column("pictures drawn", ("attributes.mean.pictures_drawn",)),
    "attributes_joint": Column("both drawn", ("attributes.mean.joint",)),
    "attributes_shuffled": Column("shuffled", ("attributes.mean.pictures_drawn_shuffled",)),
    "attributes_others": Column("drawn for pictures", ("attributes.mean.others_drawn",)),
    "attributes_majority": Column("majority", ("attributes.mean.majority",)),
    "picture_generator": Column(
        "pictures, FD before refinement", ("frechet_by_modality.generator.image",), 1
    ),
    "picture_chain": Column("pictures, FD data chain", ("frechet_by_modality.chain.image",), 1),
    "picture_frechet": Column("pictures, FD", ("frechet_by_modality.energy.image",), 1),
    "picture_floor": Column("pictures, floor", ("frechet_by_modality.floor.image",), 1),
    "text_generator": Column(
        "sentences, FD before refinement", ("frechet_by_modality.generator.text",), 1
    ),
    "text_frechet": Column("sentences, FD", ("frechet_by_modality.energy.text",), 1),
    "words_real": Column("words, real pictures", ("attribute_words.mean.real",)),
    "words_pictures": Column("pictures drawn", ("attribute_words.mean.pictures_drawn",)),
    "words_shuffled": Column("shuffled", ("attribute_words.mean.pictures_drawn_shuffled",)),
    "sentences": Column("words drawn for pictures", ("attribute_words.mean.sentences_drawn",)),
    "sentences_majority": Column("majority", ("attribute_words.mean.sentences_majority",)),
    "sentences_shuffled": Column("shuffled", ("attribute_words.mean.sentences_shuffled",)),
    "sentences_words": Column("words a sentence", ("attribute_words.mean.sentences_num_words",), 1),
    "sentences_counted": Column("sentences counted", ("attribute_words.mean.sentences_counted",)),
    "steps": Column("steps", ("step",), 0),
    "minutes": Column("minutes", ("minutes",), 1),
    "rounds": Column("rounds", ("rounds",), 0),
    "finished": Column("finished", ("finished",), 0),
    "bitwise": Column("bitwise as undisturbed", ("bitwise",)),
    "once": Column("every step once", ("once",), 0),
    "milliseconds": Column("ms a sample", ("milliseconds_a_sample",), 2),
    "ours": Column("ours, s", ("ours",), 2),
    "other": Column("the other, s", ("other",), 2),
    "ratio": Column("the other / ours: min / median / max", ("ratio",)),
    "measured": Column("measured", ("measured",)),
    **{f"chain_{n}": Column(f"{n} steps", (f"chain_{n}",)) for n in (0, 5, 10, 20, 40)},
    "promised": Column("promised", ("promised",)),
    **{
        f"millions_{n}": Column(f"{n}, 10⁶ parameters", (f"millions_{n}",), 2)
        for n in ("inference", "generator", "energy")
    },
    "loss_ours": Column("ours, nats", ("loss_ours",), 2),
    "loss_theirs": Column("MultiVae's, nats", ("loss_theirs",), 2),
    "loss_difference": Column("relative difference", ("loss_difference",)),
    "note": Column("what differs otherwise", ("note",)),
    "gflops_mmvae_plus": Column("GFLOP a step, MMVAE+", ("gflops_mmvae_plus",), 0),
    "gflops_paper_b": Column("GFLOP a step, paper B", ("gflops_paper_b",), 0),
    "lines": Column("lines", ("lines",), 0),
    "slower": Column("without / with: min / median / max", ("ratio",)),
    "percent": Column("earns, % of paper B's update", ("percent",), 1),
    "percent_bound": Column("of the bound's", ("percent_bound",), 1),
}


def rendered(text: str, root: Path = ROOT) -> str:
    """A Markdown text with every marked table and figure rendered again.

    Raises:
      FileNotFoundError, ValueError: a file of results is missing or unreadable, or a marker names
        an unknown column or figure.
    """

    def table(match: re.Match[str]) -> str:
        result, columns = results.read(root / match[2]), match[3].split(",")
        check_columns(columns)
        with results.reading(root / match[2]):
            rows = markdown(result["rows"], columns)
            empty = [name for name in columns if not _holds(result["rows"], COLUMNS[name])]
        if empty:
            raise ValueError(f"{match[2]}: no row has {', '.join(empty)}: take the column out.")
        body = f"{rows}\n\n{caption(result)}\n"
        return f"{match[1]}\n{body}\n{match[4]}"

    def figure(match: re.Match[str]) -> str:
        path, name = root / "docs" / f"{match[2]}.json", match[2].rpartition("/")[2]
        result = results.read(path)
        if name not in registry.FIGURES:
            raise ValueError(f"figure {name}: choose one of {', '.join(registry.FIGURES)}.")
        shown = registry.FIGURES[name]
        with results.reading(path):
            sentence = shown.sentence(result["rows"])
        parts = [f"![{shown.title}]({match[2]}.png)", sentence]
        if "--partial" in result["command"].split():
            parts.append("Incomplete: of the runs that were finished so far.")
        body = "\n\n".join([*parts, caption(result)])
        return f"{match[1]}\n{body}\n\n{match[3]}"

    return FIGURE.sub(figure, MARKED.sub(table, text))


def check_columns(columns: Sequence[str]) -> None:
    """Refuse unknown columns.

    Raises:
      ValueError: one line that names them.
    """
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise ValueError(f"columns {', '.join(unknown)}: choose from {', '.join(COLUMNS)}.")


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table of rows, averaged over the seeds of each method; `columns` are names in `COLUMNS`."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = [
        [name, *(_cell([r for r in rows if r["method"] == name], COLUMNS[c]) for c in columns)]
        for name in methods
    ]
    heads = ["method", *(COLUMNS[name].head for name in columns)]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def caption(result: Mapping[str, Any]) -> str:
    """How a table was made, and whether the method has changed since."""
    line = (
        f"Made by `{result['command']}`, version {result['version']}, {result['date']}, on "
        f"{result['machine']}."
    )
    if note := result.get("note"):
        line += f" {note}"
    if result["method_revision"] != method.REVISION:
        line += (
            f" Revision {result['method_revision']} of the method (now {method.REVISION}): numbers "
            "made today will differ."
        )
    return line


def _cell(rows: Sequence[Mapping[str, Any]], column: Column) -> str:
    found = [value for row in rows if (value := _value(row, column.paths)) is not None]
    if not found:
        return ""
    if isinstance(found[0], str):
        return found[0]
    if isinstance(found[0], list):  # a mean and its standard deviation, as published
        mean, deviation = found[0]
    else:
        mean = statistics.fmean(found)
        deviation = statistics.stdev(found) if len(found) > 1 else None
    shown = [f"{value:.{column.digits}f}" for value in (mean, deviation) if value is not None]
    stripped = shown if column.digits < 3 else [re.sub(r"^0(?=\.)", "", x) for x in shown]
    some = f" ({len(found)} of {len(rows)})" if len(found) < len(rows) else ""
    return " ± ".join(stripped) + some


def _holds(rows: Sequence[Mapping[str, Any]], column: Column) -> bool:
    return any(_value(row, column.paths) is not None for row in rows)


def _value(row: Mapping[str, Any], paths: Sequence[str]) -> Any:
    for path in paths:
        value: Any = row
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def main() -> None:
    """Rewrite the pages, or check them."""
    stale = []
    texts = {p: p.read_text() for p in sorted(p for pattern in FILES for p in ROOT.glob(pattern))}
    # Everything is rendered before anything is written, so a failure leaves all pages unchanged.
    for path, new in {path: _rendered_file(path, text) for path, text in texts.items()}.items():
        if new != texts[path]:
            stale.append(str(path.relative_to(ROOT)))
            if not _CHECK.value:
                path.write_text(new)
    print("\n".join(f"{'stale' if _CHECK.value else 'rendered'}: {name}" for name in stale))
    if stale and _CHECK.value:
        raise SystemExit(1)


def _rendered_file(path: Path, text: str) -> str:
    try:
        return rendered(text)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{path.relative_to(ROOT)} cannot be rendered: {error}") from error


if __name__ == "__main__":
    command_line.run(main)
