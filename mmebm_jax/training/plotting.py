"""Pictures: grids of examples, trajectories of chains, training curves. All are written as PNG.

Each kind of modality draws its own examples, as pictures or as lines of text. Pictures are enlarged
by integer factors without interpolation.
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmebm_jax.modalities.modality import Modality
from mmebm_jax.storage.files import write_whole
from mmebm_jax.typing import Alphabet

_DPI = 100
_CELL = 56  # pixels; a 28-pixel image is doubled, a 16-pixel one tripled
_GAP = 2
_LINE = 13  # height of a line of text
_CHARACTER = 5.9  # width of a character of text: eight of them fit under a 16-pixel image
_LONGEST_WORD = 24  # characters; longer text is a sentence, broken at spaces
_SENTENCE_CELL = 132  # pixels
_TITLE = 24
_MARGIN = 12
_COLUMN_LABEL = 16

Drawn = np.ndarray | list[str]  # pictures, uint8[N, H, W, 3], or one text per example


def save_grid(
    path: epath.PathLike,
    blocks: Mapping[str, Mapping[str, Any]],
    modalities: Sequence[Modality],
    alphabet: Alphabet = "",
) -> None:
    """Draws one block per title: examples across, modalities down.

    Args:
        path: the PNG file, local or remote; its folder is made if absent.
        blocks: title ("data", "generator", "given m0", ...) to a batch: modality name to examples
            `[N, *shape]` in model range. Pass only as many examples as should be seen. N and the
            modalities may differ between blocks.
        modalities: the spec of each modality in a block; its kind draws it.
        alphabet: the character or the word of each token of a text.

    Raises:
        ValueError: no block, or a block without examples.
    """
    _save_blocks(path, _draw(blocks, modalities, alphabet))


def save_trajectories(
    path: epath.PathLike,
    trajectory: Mapping[str, Any],
    step_numbers: Sequence[int],
    modalities: Sequence[Modality],
    alphabet: Alphabet = "",
) -> None:
    """Draws chains: one block per example, chain steps across, modalities down.

    Args:
        path: the PNG file, local or remote; its folder is made if absent.
        trajectory: modality name to `[T, N, ...]`, otherwise like the batches of `save_grid`.
        step_numbers: the T step numbers, as headings of the columns.
        modalities: the spec of each modality; its kind draws it.
        alphabet: the character or the word of each token of a text.

    Raises:
        ValueError: nothing to draw, or a number of steps other than T.
    """
    arrays = {name: np.asarray(value) for name, value in trajectory.items()}
    for name, value in arrays.items():
        if len(value) != len(step_numbers):
            raise ValueError(
                f"{name} has {len(value)} steps but step_numbers has {len(step_numbers)}; "
                "pass one a step"
            )
    count = min((value.shape[1] for value in arrays.values()), default=0)
    blocks = {
        f"chain {n}": {name: value[:, n] for name, value in arrays.items()} for n in range(count)
    }
    _save_blocks(path, _draw(blocks, modalities, alphabet), [str(step) for step in step_numbers])


def save_curves(
    path: epath.PathLike, records: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
) -> None:
    """Draws each logged quantity against the training step, one small plot each.

    Args:
        path: the PNG file, local or remote; its folder is made if absent.
        records: the lines of `metrics.jsonl`, each with "step". A record may lack a quantity, and
            values that are not finite leave a gap.
        names: what to draw, in this order; every number except "step" if None.

    Raises:
        ValueError: no record holds any of the quantities.
    """
    if names is None:
        found = {k: None for r in records for k, v in r.items() if isinstance(v, int | float)}
        names = [name for name in found if name != "step"]
    names = [name for name in names if any(name in record for record in records)]
    if not names:
        raise ValueError("no record holds a quantity to draw; pass lines of metrics.jsonl")
    across = min(3, len(names))
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(3.6 * across, 2.3 * down), dpi=_DPI, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        pairs = [(record["step"], record[name]) for record in records if name in record]
        steps, values = np.asarray(pairs, np.float64).T
        # Markers, since a single point has no line to draw.
        axis.plot(steps, values, linewidth=1.2, marker="." if len(steps) < 30 else "")
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.set_xlabel("step", fontsize=7)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    write_figure(path, figure)


def _draw(
    blocks: Mapping[str, Mapping[str, Any]], modalities: Sequence[Modality], alphabet: Alphabet
) -> dict[str, dict[str, Drawn]]:
    """Every example, drawn by the kind of its modality."""
    kinds = {modality.name: modality.of_kind for modality in modalities}
    return {
        title: {name: kinds[name].draw(np.asarray(x), alphabet) for name, x in batch.items()}
        for title, batch in blocks.items()
    }


def _save_blocks(
    path: epath.PathLike,
    blocks: Mapping[str, Mapping[str, Drawn]],
    column_labels: list[str] | None = None,
) -> None:
    if not blocks:
        raise ValueError("nothing to draw; pass at least one example")
    sizes = [_cell_size(batch) for batch in blocks.values()]
    cell = max(width for width, _ in sizes)
    names = [name for batch in blocks.values() for name in batch]
    gutter = round(max(map(len, names), default=0) * _CHARACTER) + 8
    head = _TITLE + (_COLUMN_LABEL if column_labels else 0)
    drawn = []
    for (title, batch), (_, heights) in zip(blocks.items(), sizes, strict=True):
        count = min((len(value) for value in batch.values()), default=0)
        if not count:
            raise ValueError(f"block {title!r} has no examples; pass at least one")
        height = head + sum(heights.values()) + _GAP * len(heights) + _MARGIN
        drawn.append((title, batch, heights, count, height))
    width = gutter + max(count for *_, count, _ in drawn) * (cell + _GAP) + _MARGIN
    tallest = max(height for *_, height in drawn)
    across = _blocks_across(len(drawn), width, tallest)
    down = math.ceil(len(drawn) / across)
    canvas = np.full((down * tallest + _MARGIN, across * width + _MARGIN, 3), 255, np.uint8)
    texts: list[tuple[float, float, str, dict[str, Any]]] = []
    for i, (title, batch, heights, count, _) in enumerate(drawn):
        left, top = _MARGIN + (i % across) * width, _MARGIN + (i // across) * tallest
        texts.append((left, top + _TITLE / 2, title, {"fontsize": 9, "weight": "bold"}))
        columns = [left + gutter + n * (cell + _GAP) for n in range(count)]
        for column, label in zip(columns, column_labels or [], strict=False):
            middle = top + _TITLE + _COLUMN_LABEL / 2
            texts.append((column + cell / 2, middle, label, {"ha": "center", "fontsize": 7}))
        row = top + head
        for name, value in batch.items():
            texts.append((left, row + heights[name] / 2, name, {"fontsize": 7}))
            for column, example in zip(columns, value, strict=False):
                if isinstance(example, np.ndarray):
                    _paste(canvas, example, row, column, heights[name], cell)
                else:
                    lines = "\n".join(_wrap(example, cell))
                    style = {"ha": "center", "fontsize": 7, "family": "monospace"}
                    texts.append((column + cell / 2, row + heights[name] / 2, lines, style))
            row += heights[name] + _GAP
    _write_canvas(path, canvas, texts)


def _cell_size(batch: Mapping[str, Drawn]) -> tuple[int, dict[str, int]]:
    """The width of a cell and the height of each modality, in pixels."""
    shapes = {n: drawn.shape[1:3] for n, drawn in batch.items() if isinstance(drawn, np.ndarray)}
    cell = max((_scale(shape) * shape[1] for shape in shapes.values()), default=_CELL)
    lines = [text for drawn in batch.values() if isinstance(drawn, list) for text in drawn]
    if any(len(text) > _LONGEST_WORD for text in lines):
        cell = max(cell, _SENTENCE_CELL)
    heights = {}
    for name, drawn in batch.items():
        if name in shapes:
            heights[name] = _scale(shapes[name]) * shapes[name][0]
        else:
            heights[name] = _LINE * max((len(_wrap(text, cell)) for text in drawn), default=1) + 6
    return cell, heights


def _scale(shape: tuple[int, ...]) -> int:
    return max(1, _CELL // max(shape[:2]))


def _wrap(text: str, cell: int) -> list[str]:
    if len(text) > _LONGEST_WORD:
        return textwrap.wrap(text, int(cell / _CHARACTER) - 2)  # space between neighbours
    # Not textwrap, since spaces are tokens too and their positions should be visible.
    length = max(1, int(cell / _CHARACTER))
    if len(text) <= length:
        return [text]
    return [text[i : i + length].ljust(length) for i in range(0, len(text), length)]


def _blocks_across(count: int, width: int, height: int) -> int:
    """The number of blocks per row that brings the picture closest to 3:2."""
    return min(
        range(1, count + 1),
        key=lambda n: abs(math.log(n * width / (math.ceil(count / n) * height) / 1.5)),
    )


def _paste(
    canvas: np.ndarray, image: np.ndarray, top: int, left: int, height: int, width: int
) -> None:
    scale = _scale(image.shape)
    picture = image.repeat(scale, axis=0).repeat(scale, axis=1)
    top += (height - picture.shape[0]) // 2
    left += (width - picture.shape[1]) // 2
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def _write_canvas(
    path: epath.PathLike,
    canvas: np.ndarray,
    texts: Sequence[tuple[float, float, str, dict[str, Any]]],
) -> None:
    height, width, _ = canvas.shape
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    figure.figimage(canvas, resize=False)
    for x, y, text, style in texts:
        # No `parse_math`, since a sampled word or a title may hold a dollar sign.
        figure.text(x / width, 1 - y / height, text, va="center", parse_math=False, **style)
    write_figure(path, figure)


def write_figure(path: epath.PathLike, figure: Figure) -> None:
    """Write a figure as a PNG file, local or remote; its folder is made if absent."""
    file = epath.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_whole(file, buffer.getvalue())
