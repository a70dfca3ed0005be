"""Evaluate a trained run by the protocol of PolyMNIST; writes `evaluation.json`."""

import itertools
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from tabulate import tabulate

from mmebm_jax import data
from mmebm_jax.metrics import classifier, coherence, frechet, probe
from mmebm_jax.modalities.modality import from_raw
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.storage.files import write_whole
from mmebm_jax.training.loop import Run
from mmebm_jax.typing import Params

CHUNK = 500
NUM_PROBE_EXAMPLES = 5000
# With more observed subsets than this, coherence by number of inputs is too expensive.
MOST_SUBSETS = 40
LOGGER = logging.getLogger("mmebm_jax")

ByModality = dict[str, np.ndarray]


class Classifiers:
    """Digit classifiers, one per modality: predictions and features of samples."""

    def __init__(self, run: Run, folder: epath.Path) -> None:
        """Read the classifiers from `folder`, or train them on the training split."""
        self._kinds = {m.name: m.kind for m in run.model.modalities}
        steps = run.config.evaluation.classifier_steps
        meta = {"data": run.config.data.to_dict(), "steps": steps}
        known = classifier.load_classifiers(folder, meta)
        if known is None:
            known = self._train(run, steps)
            classifier.save_classifiers(folder, known[0], known[1], meta)
        self._params, self.accuracies = known

    def _train(self, run: Run, steps: int) -> tuple[dict[str, Params], dict[str, float]]:
        train, test = data.whole(run.splits.train), data.whole(run.splits.test)
        modalities = {m.name: m for m in run.model.modalities}

        def to_model_range(raw: Mapping[str, np.ndarray]) -> dict[str, Any]:
            return {name: from_raw(modalities[name], values) for name, values in raw.items()}

        params = classifier.train_classifiers(
            jax.random.key(0),
            self._kinds,
            {name: train[name] for name in modalities},
            train["label"],
            run.splits.num_classes,
            steps=steps,
            to_model_range=to_model_range,
        )
        accuracies = {
            name: classifier.accuracy(
                self._kinds[name],
                params[name],
                to_model_range({name: test[name]})[name],
                test["label"],
            )
            for name in modalities
        }
        return params, accuracies

    def predict(self, samples: Mapping[str, Any]) -> tuple[ByModality, ByModality]:
        """Predicted classes `int[N]` and features `[N, F]`, each by modality."""
        classes, features = {}, {}
        for name, values in samples.items():
            logits, features[name] = classifier.predict(
                self._kinds[name], self._params[name], values
            )
            classes[name] = logits.argmax(-1)
        return classes, features


def check_refinement(sampler: Sampler, num_steps: int | None) -> None:
    """Refuse refinement steps for a model without a data-space energy.

    Raises:
      ValueError: one line that says so.
    """
    if num_steps and not sampler.settings.data_energy:
        raise ValueError(
            f"--refinement_steps={num_steps}: this run learned no data-space energy to refine "
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
      ValueError: steps are asked of a model without a data-space energy.
    """
    check_refinement(sampler, num_steps)
    settings, names = sampler.settings, [m.name for m in sampler.modalities]
    num_samples = min(run.config.evaluation.num_samples, len(run.splits.test))
    keys = dict(
        zip(
            ("prior", "base", "chain", "cross", "mean", "revised", "count", "probe"),
            jax.random.split(jax.random.key(run.config.seed + 1), 8),
            strict=True,
        )
    )
    raw = data.whole(run.splits.test, num_samples)
    labels = raw["label"]
    test = jax.device_get(sampler.as_batch({name: raw[name] for name in names}))
    all_test = sampler.as_batch(_without_label(data.whole(run.splits.test)))
    reference = {
        name: frechet.gaussian_statistics(features)
        for name, features in classifiers.predict(all_test)[1].items()
    }

    def distance(features: ByModality) -> float:
        each = [
            frechet.frechet_distance(frechet.gaussian_statistics(features[name]), reference[name])
            for name in features
        ]
        return float(np.mean(each))

    def from_prior(key: jax.Array, use_energy: bool) -> dict[str, np.ndarray]:
        return _in_chunks(
            lambda key, start, count: sampler.generate(
                sampler.prior_latents(key, count, use_energy=use_energy)
            ),
            key,
            num_samples,
        )

    def conditional(key: jax.Array, given: tuple[str, ...], method: str) -> dict[str, np.ndarray]:
        def one(key: jax.Array, start: int, count: int) -> dict[str, jax.Array]:
            observed = {name: test[name][start : start + count] for name in given}
            return sampler.generate(sampler.infer(key, observed, method=method))

        return _in_chunks(one, key, num_samples)

    joint: dict[str, float] = {}
    distances: dict[str, float] = {}
    energies: dict[str, dict[str, float]] = {}
    warnings: list[str] = []

    def measure(name: str, samples: Mapping[str, np.ndarray]) -> None:
        classes, features = classifiers.predict(samples)
        distances[name] = distance(features)
        if len(names) > 1:
            joint[name] = coherence.joint_coherence(classes)

    generated = from_prior(keys["prior"], use_energy=True)
    measure("generator", generated)
    if settings.prior_energy:
        measure("base_prior", from_prior(keys["base"], use_energy=False))
    if settings.data_energy:
        refined = _in_chunks(
            lambda key, start, count: (
                sampler.refine(
                    key,
                    {name: values[start : start + count] for name, values in generated.items()},
                    num_steps=num_steps,
                ).position
            ),
            keys["chain"],
            num_samples,
        )
        measure("energy", refined)
        energies, warnings = measure_energies(sampler, test, generated, refined, num_steps)
        for line in warnings:
            LOGGER.warning("warning: %s", line)

    crossed = {}
    for method in ("sample", "mean", "revised") if len(names) > 1 else ():
        by_source = {
            source: classifiers.predict(
                conditional(jax.random.fold_in(keys["cross"], index), (source,), method)
            )
            for index, source in enumerate(names)
        }
        predictions = {source: classes for source, (classes, _) in by_source.items()}
        crossed[method] = coherence.cross_coherence(predictions, labels)
        if method == "sample":
            each = [distance(features) for _, features in by_source.values()]
            distances["cross"] = float(np.mean(each))
    result: dict[str, Any] = {
        "step": step,
        "num_samples": num_samples,
        "protocol": {
            "classifiers": "one per modality, trained on the training split",
            "cross_coherence": "one source at a time, latent drawn from that expert; mean over "
            "targets of the mean over the other sources",
            "frechet": "between Gaussians fitted to classifier features, against all test images, "
            "mean over modalities; not FID; cross: over all pairs of source and target, self too",
            "inputs": "decoder means",
            "prior_steps": settings.chains.prior.num_steps if settings.prior_energy else 0,
            "prior_temperature": settings.chains.prior.temperature
            if settings.prior_energy
            else 1.0,
            "refinement_steps": (
                (settings.chains.data.num_steps if num_steps is None else num_steps)
                if settings.data_energy
                else 0
            ),
            "posterior_steps": settings.chains.posterior.num_steps,
        },
        "frechet": distances,
        "classifier_accuracy": classifiers.accuracies,
    }
    if energies:
        result |= {"energies": energies, "warnings": warnings}
    if crossed:
        result["joint_coherence"] = joint
        result["cross_coherence"] = {
            "mean": crossed["sample"]["mean"],
            "by_target": crossed["sample"]["by_target"],
            "expert_mean": crossed["mean"]["mean"],
            "posterior_revised": crossed["revised"]["mean"],
        }
    subsets = [
        subset for size in range(1, len(names)) for subset in itertools.combinations(names, size)
    ]
    if subsets and len(subsets) <= MOST_SUBSETS:
        by_subset = {
            subset: classifiers.predict(
                conditional(jax.random.fold_in(keys["count"], index), subset, "sample")
            )[0]
            for index, subset in enumerate(subsets)
        }
        result["coherence_by_inputs"] = coherence.coherence_by_count(by_subset, labels)
    if sampler.model.num_latents:
        result["linear_probe"] = _probe(run, sampler, keys["probe"])
    return result


def measure_energies(
    sampler: Sampler,
    test: Mapping[str, np.ndarray],
    generated: Mapping[str, np.ndarray],
    refined: Mapping[str, np.ndarray],
    num_steps: int | None,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Joint energies of data and samples, and a line if a longer chain left those of training.

    Args:
      sampler: the model with its weights.
      test: test examples, name → `[N, *shape]` in model range.
      generated: samples before refinement.
      refined: the same after refinement.
      num_steps: of the refinement; None for the trained number.

    Returns:
      Lowest, mean and highest energy of each; and the warnings.
    """

    def energies(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        def one(key: jax.Array, start: int, count: int) -> dict[str, jax.Array]:
            part = {name: values[start : start + count] for name, values in batch.items()}
            return {"energy": sampler.energy(part, check_values=False)}

        num_examples = len(next(iter(batch.values())))
        return _in_chunks(one, jax.random.key(0), num_examples)["energy"]

    values = {
        "data": energies(test),
        "generator": energies(generated),
        "refined": energies(refined),
    }
    ranges = {
        name: {"low": float(e.min()), "mean": float(e.mean()), "high": float(e.max())}
        for name, e in values.items()
    }
    seen = np.concatenate([values["data"], values["generator"]])
    warning = sampler.energy_warning(values["refined"], num_steps or 0, seen)
    return ranges, [warning] if warning else []


def write(workdir: epath.Path, result: dict[str, Any]) -> None:
    """Write `evaluation.json`."""
    write_whole(workdir / "evaluation.json", json.dumps(result, indent=2) + "\n")


def table(result: Mapping[str, Any]) -> str:
    """The main numbers as text."""
    joint, distance = result.get("joint_coherence", {}), result["frechet"]
    cross = result.get("cross_coherence", {})
    label = {
        "base_prior": "base prior",
        "generator": "learned prior" if "base_prior" in distance else "prior",
        "energy": "after data-space refinement",
    }

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    rows = [
        [text, shown(joint.get(name)), f"{distance[name]:.1f}"]
        for name, text in label.items()
        if name in distance
    ]
    lines = [
        f"step {result['step']}, {result['num_samples']} samples",
        tabulate(rows, ["samples from", "joint coherence", "Fréchet distance"]),
        "",
        tabulate(
            [[shown(cross.get(name)) for name in ("mean", "expert_mean", "posterior_revised")]],
            ["cross coherence: expert's sample", "expert's mean", "revised"],
        ),
        "",
        "classifier accuracy: "
        + ", ".join(f"{n} {a:.3f}" for n, a in result["classifier_accuracy"].items()),
        *(f"warning: {line}" for line in result.get("warnings", ())),
    ]
    return "\n".join(lines)


def _probe(run: Run, sampler: Sampler, key: jax.Array) -> float:
    sides = []
    for source in (run.splits.train, run.splits.test):
        raw = data.whole(source, NUM_PROBE_EXAMPLES)
        batch = jax.device_get(sampler.as_batch(_without_label(raw)))

        def encode(
            key: jax.Array, start: int, count: int, batch: Mapping[str, np.ndarray] = batch
        ) -> dict[str, jax.Array]:
            given = {name: values[start : start + count] for name, values in batch.items()}
            return {"latents": sampler.infer(key, given, method="mean").shared}

        sides += [_in_chunks(encode, key, len(raw["label"]))["latents"], raw["label"]]
    return probe.linear_probe(*sides)


def _in_chunks(
    function: Callable[[jax.Array, int, int], Mapping[str, jax.Array]],
    key: jax.Array,
    num_samples: int,
) -> dict[str, np.ndarray]:
    """Concatenate the results of `function(key, start, count)` over chunks of the samples."""
    chunks = []
    for start in range(0, num_samples, CHUNK):
        count = min(CHUNK, num_samples - start)
        chunks.append(jax.device_get(function(jax.random.fold_in(key, start), start, count)))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _without_label(raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values for name, values in raw.items() if name != "label"}
