"""Evaluate a trained run by the protocol of PolyMNIST; writes `evaluation.json`."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from etils import epath
from tabulate import tabulate

from experiments import results
from experiments.classifiers import Classifiers
from experiments.measures import MEASURES, Subject
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.storage.files import write_whole
from mmebm_jax.training import Run

LOGGER = logging.getLogger("mmebm_jax")


def check_refinement(sampler: Sampler, num_steps: int | None) -> None:
    """Refuse refinement steps for a model without a data energy.

    Raises:
      ValueError: one line that says so.
    """
    if num_steps and not sampler.settings.data_energy:
        raise ValueError(
            f"--refinement_steps={num_steps}: this run learned no data energy to refine "
            "samples under: leave it out."
        )


def evaluate(
    run: Run,
    sampler: Sampler,
    step: int,
    classifiers: Classifiers,
    *,
    num_steps: int | None = None,
) -> dict[str, Any]:
    """All metrics of a model under one protocol.

    Args:
      run: the run's data and configuration.
      sampler: the model with its weights.
      step: of the checkpoint, for the record.
      classifiers: one per modality.
      num_steps: of data-space refinement; None for the trained number.

    Returns:
      The content of `evaluation.json`; a metric that does not apply to the model is absent.

    Raises:
      ValueError: steps are asked of a model without a data energy.
    """
    check_refinement(sampler, num_steps)
    subject = Subject(run, sampler, classifiers, num_steps)
    result: dict[str, Any] = {
        "step": step,
        "num_samples": subject.num_samples,
        "protocol": protocol(subject),
        "made": results.made(),
        "classifier_accuracy": classifiers.accuracies,
    }
    for measure in MEASURES:
        for name, part in measure(subject).items():
            merge = isinstance(part, dict) and name in result
            result[name] = {**result[name], **part} if merge else part
    for line in result.get("warnings", ()):
        LOGGER.warning("warning: %s", line)
    return result


def protocol(subject: Subject) -> dict[str, Any]:
    """How the numbers were measured, in words and in steps."""
    settings, num_steps = subject.settings, subject.num_steps
    chains = settings.chains
    refinement = chains.data.num_steps if num_steps is None else num_steps
    return {
        "classifiers": "one per modality, trained on the training split",
        "cross_coherence": "one source at a time; mean: latent drawn from that expert; drawn: as "
        "sample(given=...) draws; mean over targets of the mean over the other sources",
        "frechet": "between Gaussians fitted to classifier features, against all test images, "
        "mean over modalities; not FID; floor: as many training images; cross: over all pairs of "
        "source and target, self too; conditional: as sample(given=...) draws, self excluded",
        "diversity": "root of the ratio of variances, over draws of sample(given=...) for one "
        "source and over test data of its class; mean over sources and targets",
        "inputs": "decoder means",
        "prior_steps": chains.prior.num_steps if settings.prior_energy else 0,
        "prior_temperature": chains.prior.temperature if settings.prior_energy else 1.0,
        "refinement_steps": refinement if settings.data_energy else 0,
        "posterior_steps": chains.posterior.num_steps,
    }


def write(workdir: epath.Path, result: dict[str, Any]) -> None:
    """Write `evaluation.json`."""
    write_whole(workdir / "evaluation.json", json.dumps(result, indent=2) + "\n")


def table(result: Mapping[str, Any]) -> str:
    """The main numbers as text."""
    joint, distance = result.get("joint_coherence", {}), result["frechet"]
    cross, spread = result.get("cross_coherence", {}), result.get("diversity", {})
    stages = {
        "base_prior": "base prior",
        "generator": "learned prior" if "base_prior" in distance else "prior",
        "energy": "after data-space refinement",
        "floor": "training data (the floor)",
    }

    def shown(value: float | None, digits: int = 3) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    of_real = {"floor": joint.get("real_data")}
    rows = [
        [text, shown(joint.get(name, of_real.get(name))), shown(distance[name], 1)]
        for name, text in stages.items()
        if name in distance
    ]
    given = [
        ["expert's sample", shown(cross.get("mean")), "–", "–"],
        ["expert's mean", shown(cross.get("expert_mean")), "–", "–"],
        ["revised", shown(cross.get("posterior_revised")), "–", "–"],
        [
            "as sample(given=...) draws",
            shown(cross.get("drawn")),
            shown(distance.get("conditional"), 1),
            shown(spread.get("conditional")),
        ],
    ]
    heads = ["given one modality", "cross coherence", "Fréchet distance", "diversity (data: 1)"]
    accuracies = ", ".join(f"{n} {a:.3f}" for n, a in result["classifier_accuracy"].items())
    lines = [
        f"step {result['step']}, {result['num_samples']} samples",
        tabulate(rows, ["samples from", "joint coherence", "Fréchet distance"]),
        "",
        *([tabulate(given, heads, disable_numparse=True), ""] if cross else []),
        f"classifier accuracy: {accuracies}",
        *(f"warning: {line}" for line in result.get("warnings", ())),
    ]
    return "\n".join(lines)
