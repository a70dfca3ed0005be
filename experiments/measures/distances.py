"""Fréchet distances on features of classifiers, Inception (FID) and other backbones."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.measures.subject import (
    Measure,
    Need,
    Part,
    Subject,
    as_many_training_examples,
    enough_for_distances,
    enough_sources_for_distances,
    labels,
    more_samples_than,
    more_sources_than,
    needs,
    two_modalities,
)
from mmebm_jax import data
from mmebm_jax.metrics import frechet, inception, mobilenet
from mmebm_jax.metrics.backbone import Backbone, cached_statistics, image_statistics
from mmebm_jax.metrics.frechet import Statistics
from mmebm_jax.training import Run

ByModality = Mapping[str, np.ndarray]


@needs(labels)
def reconstruction(subject: Subject) -> Part:
    """Fréchet distance of reconstructions of test examples, given all modalities."""
    images = subject.conditional(subject.keys["reconstruction"], tuple(subject.names), "revised")
    return {"frechet": {"reconstruction": subject.distance(subject.classifiers.predict(images)[1])}}


@needs(labels, enough_for_distances)
def distance_floor(subject: Subject) -> Part:
    """Fréchet distance of training examples in place of samples."""
    floor = _floor(subject, subject.num_samples)
    return {
        "frechet": {"floor": floor["mean"]},
        "frechet_by_modality": {"floor": floor["by_modality"]},
    }


@needs(labels, two_modalities, enough_for_distances, enough_sources_for_distances)
def conditional_distances(subject: Subject) -> Part:
    """By source and target: Fréchet distances of an expert's draw and of `sample(given=…)`.

    The expert's distances are averaged with the source's own reconstruction, as in papers, and
    without. The sampler returns the source unchanged, so its distances leave the source out.
    """
    crossed = {source: judged.features for source, judged in subject.crossed.items()}
    drawn = {
        source: {target: f for target, f in judged.features.items() if target != source}
        for source, judged in subject.drawn.items()
    }
    found = {
        "expert_sample": frechet.conditional_frechet(crossed, subject.reference),
        "drawn": frechet.conditional_frechet(drawn, subject.reference),
    }
    return {
        "frechet": {"conditional": found["drawn"]["mean"]},
        "conditional_frechet": found
        | {"floor": _floor(subject, subject.num_sources)["by_modality"]},
    }


def _floor(subject: Subject, count: int) -> Part:
    return subject.once(
        ("floor", count),
        lambda: frechet.frechet_floor(subject.train_features, subject.reference, count),
    )


def inception_file(run: Run) -> str:
    """Needs FID's weights."""
    if run.config.evaluation.inception_weights:
        return ""
    return (
        f"FID needs its weights: get {inception.WEIGHTS_URL} (or let a folder be filled) and set "
        "config.evaluation.inception_weights to the path"
    )


def mobilenet_file(run: Run) -> str:
    """Needs MobileNet's weights."""
    if run.config.evaluation.mobilenet_weights:
        return ""
    return "it needs weights: set config.evaluation.mobilenet_weights to an .npz of MobileNetV1"


def pictures(run: Run) -> str:
    """Needs a modality of grey or RGB pictures."""
    return "" if _pictures(run) else "no modality is a picture of 1 or 3 channels"


def _enough_pictures(num_features: int) -> Need:
    """Needs more samples than a backbone has features."""

    def need(run: Run) -> str:
        return more_samples_than(num_features, run) or more_sources_than(num_features, run)

    return need


@needs(
    inception_file, pictures, _enough_pictures(inception.NUM_FEATURES), as_many_training_examples
)
def fid(subject: Subject) -> Part:
    """FID of samples from the prior and given one input, with its floor."""
    return image_distances(subject, *inception_backbone(subject.run))


@needs(
    mobilenet_file, pictures, _enough_pictures(mobilenet.NUM_FEATURES), as_many_training_examples
)
def mobilenet_distance(subject: Subject) -> Part:
    """The same distances on MobileNet features, under their own name."""
    return image_distances(subject, *mobilenet_backbone(subject.run))


def inception_backbone(run: Run) -> tuple[Backbone, str]:
    """FID's backbone and the SHA-256 of its weights, downloaded if the path is a folder.

    Raises:
      OSError, ValueError: see `inception.load_inception` and `fetch_inception`.
    """
    path = Path(run.config.evaluation.inception_weights)
    if path.is_dir():
        path = inception.fetch_inception(path)
    return inception.inception_backbone(inception.load_inception(path)), _sha256(path)


def mobilenet_backbone(run: Run) -> tuple[Backbone, str]:
    """MobileNet's backbone and the SHA-256 of its weights.

    Raises:
      OSError, ValueError: see `mobilenet.load_mobilenet`; for a wrong file, the message gives its
        hash.
    """
    path = Path(run.config.evaluation.mobilenet_weights)
    try:
        return mobilenet.mobilenet_backbone(mobilenet.load_mobilenet(path)), _sha256(path)
    except ValueError as error:
        raise ValueError(f"{error} (SHA-256 {_sha256(path)[:8]}…)") from error


def image_distances(subject: Subject, backbone: Backbone, sha256: str) -> Part:
    """Fréchet distances on a backbone's features, averaged over picture modalities.

    The reference statistics, of all test examples, are cached in the folder of the classifiers.

    Args:
      subject: the model.
      backbone: the network.
      sha256: hash of its weights, for the record and the cache.

    Returns:
      The name of the distance → "generator" and "energy" for samples from the prior, "floor" for as
      many training examples, "conditional" for an expert's draw by source and target, and
      "weights".
    """
    names = _pictures(subject.run)
    reference = {name: _reference(subject, backbone, sha256, name) for name in names}

    def features(samples: ByModality) -> dict[str, np.ndarray]:
        raw = subject.sampler.as_raw({name: samples[name] for name in names})
        return {name: backbone.features(images) for name, images in raw.items()}

    def of(samples: ByModality) -> dict[str, object]:
        return frechet.frechet_by_modality(features(samples), reference)

    found: Part = {"generator": of(subject.generated)}
    if subject.settings.data_energy:
        found["energy"] = of(subject.samples)
    found["floor"] = of(subject.train)
    if len(subject.names) > 1 and len(names) > 1:
        crossed = {source: features(subject.cross(source, "sample")) for source in names}
        found["conditional"] = frechet.conditional_frechet(crossed, reference)
    found["weights"] = f"SHA-256 {sha256}"
    return {backbone.distance_name: found}


def _reference(subject: Subject, backbone: Backbone, sha256: str, name: str) -> Statistics:
    run = subject.run

    def compute() -> Statistics:
        return image_statistics(backbone, data.whole(data.complete(run.splits.test))[name])

    meta = {
        "data": run.config.data.to_dict(),
        "version": run.splits.version,
        "split": "test",
        "modality": name,
        "backbone": backbone.distance_name,
        "weights": sha256,
    }
    place = subject.classifiers.folder / f"{backbone.distance_name}_{name}.npz"
    return cached_statistics(place, meta, compute)


def _pictures(run: Run) -> list[str]:
    return [m.name for m in run.model.modalities if m.kind == "image" and m.shape[-1] in (1, 3)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MEASURES: tuple[Measure, ...] = (
    reconstruction,
    distance_floor,
    conditional_distances,
    fid,
    mobilenet_distance,
)
