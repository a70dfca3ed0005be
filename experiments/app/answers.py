"""From what the page's controls hold to what it shows; what cannot be used is one line."""

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
    """Where the sliders end."""

    posterior_steps: int
    refinement_steps: int  # 0 where no data energy was learned


def limits(sampler: Sampler) -> Limits:
    """How long the chains of a model may be in the app."""
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
    """The draws and their chains, two views.

    Args:
      looked_at: the model and its examples.
      example: number of the chosen example, from 1.
      observed: names of the observed modalities.
      controls: the numbers of `Controls`, in its order.
      own: for each modality what is given in place of the example's, or nothing; see `given.read`.

    Raises:
      ValueError, TypeError: something is not what the page offers.
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
    """The sliders' numbers, checked.

    Raises:
      ValueError, TypeError: a number is not whole, or out of its slider's range.
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
    """What is observed: of the chosen example, or what is given in its place.

    Raises:
      ValueError: an unknown modality or example, or something is given that is not observed.
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
            # What a picture or a number is meant to be was checked when it was read.
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
    """A slider's number, which may come as a float."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return arguments.whole_number(name, value, low, high)
