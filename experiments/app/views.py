"""Views as self-contained HTML, with everything escaped."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from experiments.app.draws import Draws
from experiments.app.subject import Subject
from experiments.report import figures, pictures
from experiments.report.pictures import Block, Strip
from experiments.report.render import TEMPLATES as REPORT_TEMPLATES
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.typing import Alphabet

TEMPLATES = Path(__file__).parent / "templates"
MOST_FRAMES = 40
MOST_SHOWN_STEPS = 8
FRAME_MILLISECONDS, LAST_MILLISECONDS = 80, 1500


def css() -> str:
    """The page's style."""
    return (TEMPLATES / "app.css").read_text()


def head(subject: Subject) -> str:
    """The model's name and the examples to choose from, numbered from 1."""
    count = len(next(iter(subject.examples.values())))
    heads = Strip("example", count, lines=tuple(str(n + 1) for n in range(count)))
    title = "Samples of the model" if subject.note else "Test examples"
    block = _block(title, subject, subject.examples, [heads])
    return _html("head.html", name=subject.name, note=subject.note, blocks=[block])


def draws(subject: Subject, given: Mapping[str, Any], found: Draws, warning: str = "") -> str:
    """What was observed, and the draws before and after refinement."""
    blocks = [_block("Observed", subject, given)] if given else []
    titles = {"From the generator": found.generated, "Refined under the energy": found.refined}
    for title, batch in titles.items():
        if not batch:
            continue
        free = {name: values for name, values in batch.items() if name not in given}
        shown = found.energies[0 if batch is found.generated else -1] if found.refined else ()
        lines = tuple(_number(energy) for energy in shown)
        heads = [Strip("energy", len(lines), lines=lines)] if lines else []
        blocks.append(_block(title, subject, free, heads))
    return _html("blocks.html", blocks=blocks, warning=warning)


def chain(subject: Subject, found: Draws) -> str:
    """The chains of the draws: an animation, energy curves, and the first draw step by step."""
    count = len(next(iter(found.generated.values())))
    panels, blocks = [], []
    if len(found.energies):
        panels.append(_panel("Data energy of each draw", found.energies))
        moving = [
            animated(m, found.trajectory[m.name], subject.alphabet)
            for m in subject.sampler.modalities
            if m.name in found.trajectory
        ]
        blocks += [Block("The chains, step by step", tuple(moving)), _steps(subject, found)]
    if len(found.posterior_energies):
        panels.append(_panel("−log p(x, u) along the posterior chain", found.posterior_energies))
    return _html(
        "chain.html",
        blocks=blocks,
        panels=panels,
        count=count,
        learned=subject.sampler.settings.data_energy,
    )


def exchange(subject: Subject, name: str, energies: np.ndarray) -> str:
    """A table of energies `[K, K]` of examples with modality `name` taken from another one."""
    count, least = len(energies), energies.argmin(axis=1)
    chosen = {key: values[:count] for key, values in subject.examples.items()}
    kept = {key: values for key, values in chosen.items() if key != name}
    # Prefer a modality drawn as pictures, which tell examples apart at a glance.
    own = next((m.name for m in subject.sampler.modalities if m.name in kept), name)
    rows = [
        [(_number(value), j == i, j == least[i]) for j, value in enumerate(row)]
        for i, row in enumerate(energies)
    ]
    return _html(
        "exchange.html",
        name=name,
        own=own,
        heads=_cells(subject, name, chosen[name]),
        sides=_cells(subject, own, chosen[own]),
        rows=rows,
        num_least=int((least == np.arange(count)).sum()),
        mismatched=_number(energies[~np.eye(count, dtype=bool)].mean()) if count > 1 else "–",
        matched=_number(np.diagonal(energies).mean()),
    )


def animated(modality: Modality, trajectory: np.ndarray, alphabet: Alphabet) -> Strip:
    """Chains side by side as an animated PNG; for text, only the last step.

    Args:
      modality: the modality's spec.
      trajectory: `[T + 1, N, *shape]` in model range; at most `MOST_FRAMES` steps are shown.
      alphabet: what the tokens of a text stand for.
    """
    total, count = trajectory.shape[:2]
    shown = np.unique(np.linspace(0, total - 1, min(MOST_FRAMES, total)).astype(int))
    drawn = [modality.of_kind.draw(trajectory[step], alphabet) for step in shown]
    last = drawn[-1]
    if isinstance(last, list):
        return Strip(f"{modality.name}, at the end", count, lines=tuple(last))
    frames = [Image.fromarray(pictures.side_by_side(np.asarray(one))) for one in drawn]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "PNG",
        save_all=True,
        append_images=frames[1:],
        duration=[FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS],
        loop=0,
    )
    return Strip(modality.name, count, picture=pictures.uri(buffer.getvalue()))


def _steps(subject: Subject, found: Draws) -> Block:
    """The chain of the first draw, with steps as columns."""
    total = len(found.energies)
    shown = np.unique(np.linspace(0, total - 1, min(MOST_SHOWN_STEPS, total)).astype(int))
    heads = [
        Strip("step", len(shown), lines=tuple(map(str, shown))),
        Strip("energy", len(shown), lines=tuple(_number(e) for e in found.energies[shown, 0])),
    ]
    batch = {name: steps[shown, 0] for name, steps in found.trajectory.items()}
    return _block("The first draw's chain", subject, batch, heads)


def _block(
    title: str, subject: Subject, batch: Mapping[str, Any], heads: Sequence[Strip] = ()
) -> Block:
    strips = [
        pictures.strip(m.name, m.of_kind, batch[m.name], subject.alphabet)
        for m in subject.sampler.modalities
        if m.name in batch
    ]
    return Block(title, (*heads, *strips))


def _cells(subject: Subject, name: str, values: Any) -> list[Strip]:
    modality = next(m for m in subject.sampler.modalities if m.name == name)
    return [
        pictures.strip(name, modality.of_kind, one[None], subject.alphabet)
        for one in np.asarray(values)
    ]


def _panel(title: str, energies: np.ndarray) -> dict[str, Any]:
    """A panel with one line per chain of the energies `[T, N]`."""
    steps = list(range(len(energies)))
    lines = [(n, (steps, energies[:, n].tolist())) for n in range(energies.shape[1])]
    svg, is_cut = figures.curves(lines, title)
    return {"title": title + (" (far values cut off)" if is_cut else ""), "svg": svg, "legend": []}


def _number(value: Any) -> str:
    return f"{float(value):.3g}"


def _html(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader([TEMPLATES, REPORT_TEMPLATES]),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render({"warning": ""} | values)
