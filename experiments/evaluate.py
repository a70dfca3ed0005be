"""Evaluate a trained run by the protocol of PolyMNIST; writes `evaluation.json`."""

import itertools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict
from tabulate import tabulate

from experiments import measures, results
from experiments.classifiers import Classifiers
from experiments.measures import Measure, Subject, coherence, samples
from mmebm_jax.metrics import inception, mobilenet
from mmebm_jax.runs import checkpoint, exports, folders, hub
from mmebm_jax.runs.sampler import Sampler, load
from mmebm_jax.storage.files import write_whole
from mmebm_jax.training import Run, prepare, restore_sampler

FEWEST_SAMPLES = 2  # as a deviation takes
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


def as_exported(config: ConfigDict, weights: str, workdir: epath.Path) -> ConfigDict:
    """An export's configuration, with the data and the protocol of another.

    Args:
      config: whose data set and evaluation stand; its other settings are not read.
      weights: folder of an export, or its address on the Hugging Face Hub.
      workdir: where it will be measured.

    Raises:
      ValueError: no export is there, or `workdir` holds a run, whose evaluation is its own.
    """
    if checkpoint.newest_step(workdir) is not None:
        raise ValueError(
            f"{workdir} holds a trained run, and --weights={weights} is another model: give it a "
            "--workdir of its own (--classifiers shares the classifiers)."
        )
    theirs, ours = exports.read_config(_export_folder(weights)).to_dict(), config.to_dict()
    return ConfigDict(theirs | {name: ours[name] for name in exports.NOT_SAMPLED})


def sampler_of(run: Run, weights: str | None = None) -> tuple[Sampler, int]:
    """The sampler of a run's newest checkpoint, or of an export, and its step.

    Args:
      run: on whose data the sampler is to be measured.
      weights: see `as_exported`; None for the run's own.

    Raises:
      FileNotFoundError: the run has no checkpoint.
      ValueError: no export is there, or its model was trained on other data than the run's.
    """
    if weights is None:
        return restore_sampler(run)
    folder = _export_folder(weights)
    theirs = checkpoint.read_data_facts(folder)
    ours = checkpoint.DataFacts(run.splits.fields, run.splits.alphabet, run.splits.version)
    if theirs != ours:
        raise ValueError(
            f"--weights={weights} is a model of {_summary(theirs)}, but the data are "
            f"{_summary(ours)}: name the configuration of its data by --config."
        )
    return load(folder), exports.read_facts(folder).step


def _summary(facts: checkpoint.DataFacts) -> str:
    fields = ", ".join(f"{name} {list(field.shape)}" for name, field in facts.fields.items())
    words = f", {len(facts.alphabet)} words" if facts.alphabet else ""
    return f"{fields}{words} (version {facts.version})"


def _export_folder(weights: str) -> epath.Path:
    folder = hub.folder_of(weights)
    if not folders.is_export(folder):
        raise ValueError(
            f"--weights={weights} is no export: give a folder that mmebm_jax.export wrote, or "
            "leave it out to measure --workdir's own run."
        )
    return folder


def restored(
    workdir: epath.Path, num_samples: int | None = None, weights: str | None = None
) -> tuple[Run, Sampler, int, Classifiers]:
    """A trained run to measure with its own classifiers, of one seed.

    Args:
      workdir: of the run.
      num_samples: of each kind; None for the run's own number.
      weights: of an export to measure in the run's place, see `as_exported`.

    Returns:
      The run, its sampler, the step of its checkpoint and the classifiers.

    Raises:
      FileNotFoundError: no run, or no checkpoint.
      ValueError: see `prepared` and `sampler_of`.
    """
    run = prepared(workdir, num_samples, weights)
    sampler, step = sampler_of(run, weights)
    return run, sampler, step, Classifiers(run, workdir / "classifiers")


def prepared(
    workdir: epath.Path, num_samples: int | None = None, weights: str | None = None
) -> Run:
    """The first part of `restored`, with the same arguments: the run, before anything is measured.

    Raises:
      FileNotFoundError: no run.
      ValueError: too few samples, or what `training.prepare` refuses.
    """
    if num_samples is not None and num_samples < FEWEST_SAMPLES:
        raise ValueError(f"--num_samples={num_samples}: give at least {FEWEST_SAMPLES}.")
    config = checkpoint.read_config(workdir)
    if num_samples is not None:
        config.evaluation.num_samples = num_samples
    if weights:
        config = as_exported(config, weights, workdir)
    config.evaluation.classifier_seeds = 1
    return prepare(config, workdir)


def evaluate(
    run: Run,
    sampler: Sampler,
    step: int,
    classifiers: Classifiers,
    *,
    num_steps: int | None = None,
    only: Sequence[Measure] | None = None,
) -> dict[str, Any]:
    """The metrics of a model under one protocol.

    Args:
      run: the run's data and configuration.
      sampler: the model with its weights.
      step: of the checkpoint, for the record.
      classifiers: one per modality and seed.
      num_steps: of data-space refinement; None for the configured number.
      only: what to measure; None for what the configuration chooses.

    Returns:
      The content of `evaluation.json`; a metric that does not apply to the model is absent, and
      what the run lacks something for stands under "absent".

    Raises:
      ValueError: steps are asked of a model without a data energy, or see `measures.chosen`.
    """
    check_refinement(sampler, num_steps)
    wanted = measures.chosen(run) if only is None else only
    subject = Subject(run, sampler, classifiers, num_steps)
    result: dict[str, Any] = {
        "step": step,
        "num_samples": subject.num_samples,
        "num_sources": subject.num_sources,
        "protocol": protocol(subject),
        "made": results.made_now(),
    }
    seconds, absent = {}, {} if only is not None else measures.absent(run)
    for measure in wanted:
        begin, own_name = time.monotonic(), measure.__name__
        try:
            parts = dict(measure(subject))
        except FloatingPointError as error:  # The others are not lost by it.
            parts = {"absent": {own_name: str(error)}}
        absent |= parts.pop("absent", {})
        for name, part in parts.items():
            merge = isinstance(part, dict) and name in result
            result[name] = {**result[name], **part} if merge else part
        seconds[own_name] = round(time.monotonic() - begin, 1)
        LOGGER.info("measured %s, %.0f s", own_name, seconds[own_name])
    if classifiers.have_judged:
        result["classifier_accuracy"] = classifiers.accuracies
    result["measure_seconds"] = seconds
    if absent:
        result["absent"] = absent
    for line in result.get("warnings", ()):
        LOGGER.warning("warning: %s", line)
    return result


def protocol(subject: Subject) -> dict[str, Any]:
    """How the numbers were measured, in words and in steps."""
    settings, num_steps = subject.settings, subject.num_steps
    chains = settings.chains
    refinement = chains.data.num_steps if num_steps is None else num_steps
    return {
        "classifiers": "one per modality and seed, trained on the training split; the first judges "
        "everything, coherence_by_judge has all",
        "cross_coherence": "one source at a time; mean: latent drawn from that expert; drawn: as "
        "sample(given=...) draws; mean over targets of the mean over the other sources; real_data: "
        "test data in the place of draws; shuffled_pairs: the same of other examples",
        "frechet": "between Gaussians fitted to classifier features, against all test images, "
        "mean over modalities; not FID; floor: as many training images; cross: over all pairs of "
        "source and target, self too; conditional: as sample(given=...) draws, self excluded",
        "diversity": "root of the ratio of variances, over draws of sample(given=...) for one "
        "source and over test data of its class; mean over sources and targets; of_data: of "
        "other test data of the class in the place of draws",
        "log_likelihood": "nats, importance-weighted bound with proposals from the inference "
        "model, less log Z of the latent energy from above; of data with respect to the range "
        "[-1, 1]; conditional: of all other modalities given one, beside nothing given",
        "calibration": "ranks of latents that data were simulated from, among draws given the "
        "data: p-values of uniform ranks (Bonferroni), of latents and of log p(x, z); coverage is "
        "to equal its level; prior: draws that ignore the data",
        "clustering": "of posterior means; mixture: as many Gaussians as classes; own_prior: the "
        "run's own; shuffled: the same clusters in another order; classifier: its classes",
        "retrieval": "the partner of an example among pool, by two towers trained on the training "
        "pairs (InfoNCE); expectation over pools and over guesses among equal scores; real: test "
        "pairs, the ceiling; joint: samples; pictures_drawn, others_drawn: as sample(given=...) "
        "draws; shuffled: other examples' partners; mean: over pairs of modalities and both ways",
        "attributes": "a classifier of pictures, trained on the training split, against what was "
        "asked: given, drawn with it or, for real test pictures, true; others_drawn: attributes "
        "drawn for pictures against the true; majority: the commonest in training; ..._shuffled: "
        "expectation against other examples; mean over attributes",
        "attribute_words": "the same of words that a sentence names, over visible ones: those that "
        "the classifier finds in real test pictures at least .1 more often where they are named; "
        "sentences_drawn: share of a drawn sentence's visible words that any sentence of the "
        "picture has; majority: of as many of the commonest ones; shuffled: of other pictures",
        "inputs": "decoder means",
        "sources": "completions, reconstructions and their distances are of the first num_sources "
        "test examples; coherence by inputs of at most "
        f"{coherence.MOST_SOURCES}; diversity of {samples.NUM_SOURCES}, {samples.NUM_DRAWS} draws "
        "each",
        "prior_steps": chains.prior.num_steps if settings.prior_energy else 0,
        "prior_temperature": chains.prior.temperature if settings.prior_energy else 1.0,
        "refinement_steps": refinement if settings.data_energy else 0,
        "refinement_time": refinement * chains.data.step_size**2 / 2
        if settings.data_energy
        else 0.0,
        "posterior_steps": chains.posterior.num_steps,
    }


def write(workdir: epath.Path, result: dict[str, Any]) -> None:
    """Write `evaluation.json`; one that holds what the new one lacks is kept beside it."""
    path = workdir / "evaluation.json"
    if path.exists() and (lost := _measured(path) - result["measure_seconds"].keys()):
        numbers = (workdir / f"evaluation_{number}.json" for number in itertools.count(1))
        kept = next(name for name in numbers if not name.exists())
        path.rename(kept)
        names = ", ".join(sorted(lost))
        LOGGER.warning("the earlier evaluation is kept as %s, for it has %s", kept, names)
    write_whole(path, json.dumps(result, indent=2) + "\n")


def _measured(path: epath.Path) -> set[str]:
    """Names of the measures of an `evaluation.json`."""
    try:
        return set(json.loads(path.read_text())["measure_seconds"])
    except (ValueError, KeyError, TypeError):  # Damaged, or of another version: kept.
        return {"what cannot be read"}


def table(result: Mapping[str, Any]) -> str:
    """The main numbers as text."""
    joint, distance = result.get("joint_coherence", {}), result.get("frechet", {})
    cross, spread = result.get("cross_coherence", {}), result.get("diversity", {})
    refined = "after data-space refinement"
    stages = {
        "base_prior": "base prior",
        "generator": "learned prior" if "base_prior" in distance else "prior",
        "chain": refined,
        "energy": "chosen among candidates" if "chain" in distance else refined,
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
    if "shuffled_pairs" in joint:
        rows.append(["shuffled pairs of real data", shown(joint["shuffled_pairs"]), "–"])
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
    columns = ["samples from", "joint coherence", "Fréchet distance"]
    more = _others(result)
    judges = result.get("classifier_accuracy", {})
    accuracies = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in judges.items())
    lines = [
        f"step {result['step']}, {result['num_samples']} samples",
        *([tabulate(rows, columns), ""] if rows else []),
        *([tabulate(given, heads, disable_numparse=True), ""] if cross else []),
        *([tabulate(more, ["", "value", "beside it"], disable_numparse=True), ""] if more else []),
        *([f"classifier accuracy: {accuracies}"] if accuracies else []),
        *(f"warning: {line}" for line in result.get("warnings", ())),
        *(f"not measured: {name}: {why}" for name, why in result.get("absent", {}).items()),
    ]
    return "\n".join(lines)


def _others(result: Mapping[str, Any]) -> list[list[str]]:
    """One row for each number that only some evaluations have, beside what it is read against."""
    rows = []
    for name in (inception.DISTANCE_NAME, mobilenet.DISTANCE_NAME):
        if found := result.get(name):
            value = found.get("energy", found["generator"])["mean"]
            rows.append([name, f"{value:.1f}", f"training data {found['floor']['mean']:.1f}"])
    if spread := result.get("coherence_by_judge", {}).get("over_seeds"):
        for name in ("joint", "cross", "drawn"):
            mean, deviation = spread[name]["mean"], spread[name]["standard_deviation"]
            rows.append([f"{name} coherence over classifiers", f"{mean:.3f}", f"± {deviation:.3f}"])
    if found := result.get("log_likelihood"):
        beside = f"training data {found['training_data']['mean']:.1f}; " + _effective(found["test"])
        rows.append(["log-likelihood, nats", f"{found['test']['mean']:.1f}", beside])
    if found := result.get("conditional_log_likelihood"):
        sizes = [source["effective_sample_size"] for source in found["by_source"].values()]
        beside = f"nothing given {found['nothing_given']:.1f}; "
        beside += _effective({"effective_sample_size": min(sizes)})
        rows.append(["the same of others given one", f"{found['mean']:.1f}", beside])
    if found := result.get("calibration"):
        for name, scores in found.items():
            if isinstance(scores, Mapping):
                share = scores["interval_coverage"]["0.5"]
                rows.append([f"50 % intervals of {name}", f"{share:.2f}", ".5 if calibrated"])
    if found := result.get("clustering"):
        beside = (
            f"classifier {found['classifier']['nmi']:.2f}, shuffled {found['shuffled']['nmi']:.2f}"
        )
        rows.append(["clusters: mutual information", f"{found['mixture']['nmi']:.2f}", beside])
    if found := result.get("retrieval"):
        mean, chance = found["mean"], found["chance"]
        for name in ("joint", "pictures_drawn", "others_drawn"):
            beside = f"real {mean['real']:.3f}, chance {chance:.3f}"
            rows.append([f"retrieval, {_words(name)}", f"{mean[name]:.3f}", beside])
    for title in ("attributes", "attribute_words"):
        rows += _agreements(title, result.get(title, {}).get("mean", {}))
    if found := result.get("linear_probes"):
        rows.append(["linear probe", f"{found['shared']:.3f}", f"chance {found['chance']:.3f}"])
    return rows


def _agreements(title: str, mean: Mapping[str, float]) -> list[list[str]]:
    """Rows of one kind of attributes, each beside its ceiling and its floors."""
    rows = []
    for side in ("pictures_drawn", "joint", "others_drawn", "sentences_drawn"):
        if side not in mean:
            continue
        beside = []
        if side in ("pictures_drawn", "joint"):
            beside.append(f"real {mean['real']:.3f}")
        words = "sentences_" if side == "sentences_drawn" else ""
        if (majority := mean.get(f"{words}majority")) is not None:
            beside.append(f"majority {majority:.3f}")
        shuffled = mean["sentences_shuffled" if words else f"{side}_shuffled"]
        beside.append(f"shuffled {shuffled:.3f}")
        rows.append([f"{_words(title)}, {_words(side)}", f"{mean[side]:.3f}", ", ".join(beside)])
    return rows


def _words(name: str) -> str:
    return name.replace("_", " ")


def _effective(estimate: Mapping[str, float]) -> str:
    return f"effective sample size {estimate['effective_sample_size']:.1f}"
