"""How each run was made, one row per run."""

from typing import NamedTuple

from experiments.report import presets
from experiments.report.collect import Run
from mmebm_jax.storage.validation import shown

ABSENT = "–"


class Setup(NamedTuple):
    """A run; `differences` are (field, its value, the preset's value)."""

    name: str
    data: str
    preset: str
    steps: str
    checkpoint: str
    seconds: str
    evaluated: str
    version: str
    machine: str
    differences: tuple[tuple[str, str, str], ...]


def setup(run: Run) -> Setup:
    """What a run folder records about how the run was made."""
    preset = None if run.config is None else presets.closest(run.config)
    evaluation = run.evaluations[0] if run.evaluations else None
    numbers = evaluation.numbers if evaluation else {}
    words = evaluation.words if evaluation else {}
    done = max([*run.checkpoints, *(int(row["step"]) for row in run.rows[-1:])], default=None)
    planned = ABSENT if run.config is None else str(run.config.num_steps)
    return Setup(
        name=run.name,
        data=ABSENT if run.config is None else str(run.config.data.name),
        preset=preset.name if preset else ABSENT,
        steps=f"{ABSENT if done is None else done} of {planned}",
        checkpoint=str(run.checkpoints[-1]) if run.checkpoints else ABSENT,
        seconds=f"{numbers['train_seconds']:.0f}" if "train_seconds" in numbers else ABSENT,
        evaluated=words.get("made.date", evaluation.date) if evaluation else ABSENT,
        version=words.get("made.version", ABSENT),
        machine=words.get("made.machine", ABSENT),
        differences=tuple(
            (name, shown(value), shown(usual))
            for name, (value, usual) in (preset.differences if preset else {}).items()
        ),
    )
