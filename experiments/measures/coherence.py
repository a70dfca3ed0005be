"""Coherence: do the modalities of a sample show one class? With ceilings, floors and judges."""

import itertools
from functools import partial

import jax
import numpy as np

from experiments.measures.subject import Measure, Part, Subject, labels, needs, two_modalities
from mmebm_jax.metrics import coherence
from mmebm_jax.training import Run

# With more observed subsets than this, coherence by number of inputs is too expensive.
MOST_SUBSETS = 40
MOST_SOURCES = 500  # per subset


@needs(labels, two_modalities)
def cross_samples(subject: Subject) -> Part:
    """Cross coherence from one input: an expert's draw, its mean, and a revised draw.

    The revised draw is left out if its chain diverges.
    """
    drawn = {source: judged.classes for source, judged in subject.crossed.items()}
    of_draws = coherence.cross_coherence(drawn, subject.source_labels)
    cross = {"mean": of_draws["mean"], "by_target": of_draws["by_target"]}
    absent = {}
    for name, method in (("expert_mean", "mean"), ("posterior_revised", "revised")):
        try:
            classes = {
                source: subject.classifiers.predict(subject.cross(source, method))[0]
                for source in subject.names
            }
        except FloatingPointError as error:
            absent[f"cross coherence, {method}"] = str(error)
            continue
        cross[name] = coherence.cross_coherence(classes, subject.source_labels)["mean"]
    distances = [subject.distance(judged.features) for judged in subject.crossed.values()]
    return {
        "cross_coherence": cross,
        "frechet": {"cross": float(np.mean(distances))},
        "absent": absent,
    }


@needs(labels, two_modalities)
def drawn_samples(subject: Subject) -> Part:
    """Cross coherence of the draws of `sample(given=…)` for one input."""
    classes = {source: judged.classes for source, judged in subject.drawn.items()}
    found = coherence.cross_coherence(classes, subject.source_labels)
    drawn = {"drawn": found["mean"], "drawn_by_target": found["by_target"]}
    return {"cross_coherence": drawn}


@needs(labels, two_modalities)
def coherence_floors(subject: Subject) -> Part:
    """Joint and cross coherence of real pairs, shuffled pairs and chance."""
    found = coherence.coherence_floors(
        subject.judged_test.classes,
        subject.labels,
        subject.run.splits.num_classes,
        np.random.default_rng(np.asarray(jax.random.key_data(subject.keys["shuffle"]))),
    )
    return {"joint_coherence": found["joint"], "cross_coherence": found["cross"]}


@needs(labels, two_modalities)
def coherence_by_judge(subject: Subject) -> Part:
    """Joint and cross coherence as judged by classifiers of several seeds and by published ones."""
    if len(subject.classifiers.by_judge) < 2:
        return {}
    samples = subject.judged_samples.by_judge
    found: Part = {}
    for judge, accuracies in subject.classifiers.by_judge.items():
        sides = {"cross": subject.crossed, "drawn": subject.drawn}
        found[judge] = {
            "joint": coherence.joint_coherence(samples[judge]),
            "joint_of_real_data": coherence.joint_coherence(subject.judged_test.by_judge[judge]),
            **{
                name: coherence.cross_coherence(
                    {source: judged.by_judge[judge] for source, judged in side.items()},
                    subject.source_labels,
                )["mean"]
                for name, side in sides.items()
            },
            "accuracy": float(np.mean(list(accuracies.values()))),
        }
    return {"coherence_by_judge": found | _spread(found)}


def _spread(found: Part) -> Part:
    """Mean and standard deviation over the classifiers' seeds."""
    of_seeds = [values for judge, values in found.items() if judge.startswith("seed")]
    if len(of_seeds) < 2:
        return {}
    spread = {
        name: {
            "mean": float(np.mean([values[name] for values in of_seeds])),
            "standard_deviation": float(np.std([values[name] for values in of_seeds], ddof=1)),
        }
        for name in of_seeds[0]
    }
    return {"over_seeds": spread}


def _few_subsets(run: Run) -> str:
    count = 2 ** len(run.model.modalities) - 2
    if count <= MOST_SUBSETS:
        return ""
    return f"the data have {count} subsets of modalities, and it takes at most {MOST_SUBSETS}"


@needs(labels, two_modalities, _few_subsets)
def coherence_by_inputs(subject: Subject) -> Part:
    """Cross coherence by the number of observed modalities, and by observed subset."""
    names, classes_of = subject.names, subject.source_labels[:MOST_SOURCES]
    key = partial(jax.random.fold_in, subject.keys["count"])
    subsets = [s for size in range(1, len(names)) for s in itertools.combinations(names, size)]
    predicted = {
        subset: subject.classifiers.predict(
            subject.conditional(key(index), subset, "sample", MOST_SOURCES)
        )[0]
        for index, subset in enumerate(subsets)
    }
    by_subset = {
        "+".join(subset): next(
            iter(coherence.coherence_by_count({subset: classes}, classes_of).values())
        )
        for subset, classes in predicted.items()
    }
    return {
        "coherence_by_inputs": coherence.coherence_by_count(predicted, classes_of),
        "coherence_by_subset": by_subset,
    }


MEASURES: tuple[Measure, ...] = (
    cross_samples,
    drawn_samples,
    coherence_floors,
    coherence_by_judge,
    coherence_by_inputs,
)
