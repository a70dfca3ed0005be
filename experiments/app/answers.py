"""Turn the page's inputs into what it shows; invalid input raises a one-line error."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.app import draws, given, subject, views
from experiments.app.draws import Controls
from experiments.app.subject import MOST_DRAWS, Subject
from mmebm_jax.runs import arguments
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.storage.validation import shown

MOST_SEED = 2**31 - 1
HOTTEST = 2.0
NUM_EXCHANGED = 6


class Limits(NamedTuple):
    """Upper ends of the sliders."""

    posterior_steps: int
    refinement_steps: int  # 0 if no data energy was learned


def limits(sampler: Sampler) -> Limits:
    """The longest chains that the app allows for a model."""
    settings = sampler.settings
    refinement = subject.most_steps(sampler, settings.chains.data.num_steps)
    return Limits(
        subject.most_steps(sampler, settings.conditional_steps),
        refinement if settings.data_energy else 0,
    )


def sample(
    looked_at: Subject,
    example: Any,
    observed: Any,
    controls: Sequence[Any],
    own: Sequence[Any],
) -> tuple[str, str]:
    """Draw samples; returns two views, of the draws and of their chains.

    Args:
      looked_at: the model and its examples.
      example: number of the chosen example, from 1.
      observed: names of the observed modalities.
      controls: the numbers of `Controls`, in the same order.
      own: for each modality, a value to use instead of the example's, or nothing; see `given.read`.

    Raises:
      ValueError, TypeError: an input is not one that the page offers.
    """
    sampler = looked_at.sampler
    checked = read_controls(controls, limits(sampler))
    batch = observed_batch(looked_at, example, observed, own)
    found = draws.draw(sampler, batch, checked)
    warning = ""
    if len(found.energies):
        configured = sampler.settings.chains.data.num_steps
        seen = found.energies[: configured + 1]
        warning = sampler.energy_warning(found.energies[-1], checked.refinement_steps, seen)
    return views.draws(looked_at, batch, found, warning), views.chain(looked_at, found)


def read_controls(values: Sequence[Any], most: Limits) -> Controls:
    """Validate the sliders' numbers.

    Raises:
      ValueError, TypeError: a number is not whole, or is outside its slider's range.
    """
    num_draws, posterior, refinement, temperature, seed = values
    if not isinstance(temperature, int | float) or not 0 <= temperature <= HOTTEST:
        raise ValueError(f"temperature is {shown(temperature)}: give 0 to {HOTTEST:g}.")
    return Controls(
        num_draws=_whole("draws", num_draws, 1, MOST_DRAWS),
        posterior_steps=_whole("posterior steps", posterior, 0, most.posterior_steps),
        refinement_steps=_whole("refinement steps", refinement, 0, most.refinement_steps),
        temperature=float(temperature),
        seed=_whole("seed", seed, 0, MOST_SEED),
    )


def observed_batch(
    looked_at: Subject, example: Any, observed: Any, own: Sequence[Any]
) -> dict[str, Any]:
    """The observed modalities, from the chosen example or from the values given instead.

    Raises:
      ValueError: a modality or example is unknown, or a value is given for an unobserved modality.
    """
    modalities = looked_at.sampler.modalities
    names = [m.name for m in modalities]
    if not isinstance(observed, list) or not all(name in names for name in observed):
        raise ValueError(f"observed is {shown(observed)}: choose of {', '.join(names)}.")
    count = len(looked_at.examples[names[0]])
    index = _whole("example", example, 1, count) - 1
    batch = {}
    for modality, value in zip(modalities, own, strict=True):
        raw = given.read(value, modality, looked_at.alphabet)
        if modality.name not in observed:
            if raw is not None:
                raise ValueError(
                    f"{modality.name} is given but not observed: tick it under the observed "
                    "modalities, or clear it."
                )
        elif raw is None:
            batch[modality.name] = looked_at.examples[modality.name][index : index + 1]
        else:
            # Pictures and numbers were already checked when they were read.
            batch |= looked_at.sampler.as_batch({modality.name: raw}, check_values=False)
    return batch


def exchange(looked_at: Subject, name: Any) -> str:
    """The view of energies of examples with one modality exchanged.

    Raises:
      ValueError: no data energy was learned, or the modality is unknown.
    """
    sampler = looked_at.sampler
    if not sampler.settings.data_energy:
        raise ValueError("this model learned no data energy to measure.")
    if name not in looked_at.examples:
        raise ValueError(f"modality is {shown(name)}: choose of {', '.join(looked_at.examples)}.")
    chosen = {key: values[:NUM_EXCHANGED] for key, values in looked_at.examples.items()}

    def energy(batch: Mapping[str, Any]) -> Any:
        return sampler.energy(batch, check_values=False)

    return views.exchange(looked_at, name, draws.exchanged_energies(energy, chosen, name))


def _whole(name: str, value: Any, low: int, high: int) -> int:
    """A slider's number, which may arrive as a float."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return arguments.whole_number(name, value, low, high)
