"""All figures by name, in the order of the page."""

from experiments.figures import (
    chain_steps,
    energy_loss,
    generator_loss,
    quality_coherence,
    sensitivity,
    trajectories,
)
from experiments.figures.figure import Figure

FIGURES: dict[str, Figure] = {
    "energy_loss": energy_loss.FIGURE,
    "generator_loss": generator_loss.FIGURE,
    "trajectories": trajectories.FIGURE,
    "quality_coherence": quality_coherence.FIGURE,
    "chain_steps": chain_steps.FIGURE,
    "sensitivity": sensitivity.FIGURE,
}
