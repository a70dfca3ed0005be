"""The sections on samples: joint, conditional, chains, and the energies of all."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.report import figures, pictures
from experiments.report.collect import Run
from experiments.report.parts import Key, Missing, Panel, command
from experiments.report.pictures import Block, Drawn

MOST_PICTURE_BYTES = 5 * 2**20  # per page
KINDS = ("joint", "conditional", "chains")


class Shown(NamedTuple):
    """Pictures of one kind from one run."""

    name: str
    blocks: tuple[Block, ...]
    note: str = ""


class Samples(NamedTuple):
    """All samples of the page."""

    data: tuple[Shown, ...]  # what the runs were trained on, titled by data set
    joint: tuple[Shown, ...]
    conditional: tuple[Shown, ...]
    chains: tuple[Shown, ...]
    energies: tuple[Panel, ...]
    stored: tuple[tuple[str, str], ...]  # title and data URI of pictures written during training
    missing: dict[str, tuple[Missing, ...]]  # by kind, and for "energies"


def samples(runs: Sequence[Run], draw: Callable[[Run], Drawn]) -> Samples:
    """Samples of the first run of each method, within `MOST_PICTURE_BYTES`.

    Args:
      runs: the runs on the page.
      draw: returns the samples of a run with a checkpoint.
    """
    firsts = list({run.method: run for run in reversed(runs)}.values())[::-1]
    share = MOST_PICTURE_BYTES // (len(firsts) * len(KINDS))
    shown: dict[str, list[Shown]] = {kind: [] for kind in KINDS}
    missing: dict[str, list[Missing]] = {kind: [] for kind in (*KINDS, "energies")}
    energies: list[Panel] = []
    stored: list[tuple[str, str]] = []
    data: dict[tuple[Block, ...], Shown] = {}
    for run in firsts:
        drawn, problem = _drawn(run, draw)
        if drawn is None:
            for lines in missing.values():
                lines.append(problem)
            named = pictures.stored(run.folder).items()
            stored += [(f"{run.name}: {file}", uri) for file, uri in named]
            continue
        if drawn.data:
            assert run.config is not None
            data.setdefault(drawn.data, Shown(str(run.config.data.name), drawn.data))
        for kind in KINDS:
            blocks = getattr(drawn, kind)
            if blocks:
                shown[kind].append(_within(run, blocks, share, drawn.problem))
            else:
                missing[kind].append(Missing(f"{run.name} {ABSENT[kind]}."))
        panels = _energies(run, drawn)
        energies += panels
        if not panels:
            missing["energies"].append(Missing(f"{run.name} {ABSENT['energies']}."))
    return Samples(
        data=tuple(data.values()),
        joint=tuple(shown["joint"]),
        conditional=tuple(shown["conditional"]),
        chains=tuple(shown["chains"]),
        energies=tuple(energies),
        stored=tuple(stored),
        missing={kind: tuple(lines) for kind, lines in missing.items()},
    )


# Why a run has no pictures of a kind.
ABSENT = {
    "joint": "has no samples",
    "conditional": "has one modality alone, so nothing is given",
    "chains": "learned no data energy, so it has no chains in data space",
    "energies": "learned neither a data energy nor a latent energy",
}


def _drawn(run: Run, draw: Callable[[Run], Drawn]) -> tuple[Drawn | None, Missing]:
    if run.config is None or not run.checkpoints:
        line = f"{run.name} has no checkpoint that this version can read."
        return None, Missing(line, command(run, "train"))
    try:
        return draw(run), Missing("")
    except FloatingPointError as error:
        return None, Missing(f"{run.name}: {error}")
    except (ValueError, OSError) as error:
        return None, Missing(f"{run.name}: {error}", command(run, "train"))


def _within(run: Run, blocks: Sequence[Block], share: int, problem: str) -> Shown:
    """The first blocks that fit into their share of the page."""
    kept: list[Block] = []
    for block in blocks:
        if pictures.num_bytes([*kept, block]) > share:
            note = f"{len(blocks) - len(kept)} more would make the page too large: "
            return Shown(run.name, tuple(kept), note + command(run, "report"))
        kept.append(block)
    return Shown(run.name, tuple(kept), problem)


def _energies(run: Run, drawn: Drawn) -> list[Panel]:
    named: dict[str, Mapping[str, np.ndarray]] = {
        "energy of examples": drawn.data_energies,
        "energy of latents": drawn.latent_energies,
    }
    panels = []
    for title, values in named.items():
        if values:
            svg = figures.histograms(dict(enumerate(values.values())), f"{title} of {run.name}")
            keys = tuple(Key(label, number) for number, label in enumerate(values))
            panels.append(Panel(f"{run.name}: {title}", svg, keys))
    return panels
