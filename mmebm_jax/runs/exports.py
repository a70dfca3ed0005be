"""Exports of a trained model as a few small files, for sharing: `mmebm_jax.export`.

An export holds `model.safetensors` (only the sampling weights), `config.json` and `data.json` as in
a run folder, `export.json` (the `Facts` below) and `README.md`, the model card. `mmebm_jax.load`
reads it like a run, and needs neither checkpoints nor data.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
import pydantic
import safetensors.numpy
from etils import epath
from ml_collections import ConfigDict

from mmebm_jax.method.model import NETWORKS, Model
from mmebm_jax.method.train_state import Weights
from mmebm_jax.runs import builders, cards, checkpoint, schema, tensors
from mmebm_jax.runs.folders import FACTS, TENSORS, is_export
from mmebm_jax.runs.template import MOST_BYTES, template
from mmebm_jax.storage import places, validation
from mmebm_jax.storage.files import check_folder, write_whole
from mmebm_jax.storage.validation import PRINTABLE, OneOf, Record, brief, plain, shown
from mmebm_jax.version import VERSION

FORMAT = 2  # 1 has no integer types; an export that uses none still states 1
FILES = (TENSORS, "config.json", "data.json", FACTS, "README.md")
DTYPES = tensors.DTYPES
# Sections read only by training or evaluation; those of an export may be of any version.
NOT_SAMPLED = ("data", "evaluation", "guard", "input", "optimiser", "tracker")
_Text = Annotated[str, pydantic.Field(max_length=200, pattern=PRINTABLE)]
# Sections without meaningful defaults: every version wrote them.
NEEDED = ("model", "prior")


class Facts(Record):
    """The content of `export.json`."""

    format: int = pydantic.Field(ge=1, le=FORMAT)
    library: _Text  # the version of mmebm_jax that wrote it
    step: int = pydantic.Field(ge=0, le=2**31)
    trained: list[Annotated[str, OneOf(NETWORKS)]]  # networks that were trained
    dtype: Annotated[str, OneOf(DTYPES)]  # type in which the networks' parameters are stored
    sha256: _Text  # checksum of model.safetensors


def export(
    workdir: epath.PathLike,
    folder: epath.PathLike,
    *,
    dtype: str = "float32",
    licence: str = "",
) -> None:
    """Write a trained run's sampling weights and a model card into a new folder.

    Only what sampling needs is written: the averaged weights of the networks and the base prior.
    An energy that was never trained is left out, and `load` initialises it afresh. Strings of the
    configuration that may name folders on this machine are left out too.

    Args:
      workdir: the folder of a trained run.
      folder: the folder to write to; it must be new or empty.
      dtype: type in which the networks' parameters are stored. "float32" reproduces the run's
        samples bit for bit, "float16" halves the size; in both the base prior stays float32, since
        its log-density is a difference of large numbers. "int8" and "int6" store large kernels in
        8 or 6 bits, and all other parameters and the priors of private latents in float16 (see
        `tensors`): a quarter or a fifth of the size. Evaluate such an export, see
        `experiments.export`. `load` always computes in float32.
      licence: the model's licence for the card, an SPDX identifier; "" if none is stated.

    Raises:
      FileNotFoundError: there is no run or no checkpoint in `workdir`.
      TypeError: a folder is not a path.
      ValueError: the folder holds files or cannot be written to, the dtype is unknown, the licence
        is not an identifier, or a weight is out of the dtype's range.
    """
    source, target = places.place(workdir), places.place(folder)
    cards.check_licence(licence)
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {shown(dtype)}: choose one of {', '.join(DTYPES)}.")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} is there already and not empty: name a new folder.")
    check_folder(target)
    if is_export(source):
        raise ValueError(f"{source} is an export already: copy it, or export the run again.")
    config = checkpoint.read_config(source)
    data = checkpoint.read_data_facts(source)
    model = builders.build_model(config, data.fields)
    shapes = template(model, config.prior.num_components)
    weights, step, trained, time = checkpoint.restore_weights(source, shapes)
    if time:  # An export states a fitted time as if it had been configured.
        config.energy.update(sampling_time=time, fit_sampling_time=False)
    stored = _stored(weights, _stored_networks(trained), dtype)
    content = safetensors.numpy.save(stored, {"format": "mmebm_jax"})
    facts = Facts(
        format=2 if tensors.num_bits(dtype) else 1,
        library=VERSION,
        step=step,
        trained=trained,
        dtype=dtype,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    target.mkdir(parents=True, exist_ok=True)
    card = cards.model_card(source, config, data, facts.model_dump(), licence)
    write_whole(target / TENSORS, content)
    write_whole(target / "config.json", _json(_shared_config(config)))
    write_whole(target / "data.json", (source / "data.json").read_text())
    write_whole(target / "README.md", card)
    # Written last: a folder without it is not an export.
    write_whole(target / FACTS, _json(facts.model_dump()))


def read_config(folder: epath.Path) -> ConfigDict:
    """An export's configuration, with this version's defaults for fields that it lacks.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: it is damaged, or has fields that this version does not know.
    """
    path = folder / "config.json"
    saved = {n: v for n, v in checkpoint.read_json(path).items() if n not in NOT_SAMPLED}
    for name in NEEDED:
        if name not in saved:
            raise ValueError(f"{path} is damaged (config.{name} is missing): fetch it anew.")
    tree = _merged(schema.defaults().to_dict(), saved)
    try:
        schema.parse(tree)
    except ValueError as error:
        raise ValueError(f"{path} is of another version: {error}") from error
    return ConfigDict(tree)


def read_data_section(folder: epath.Path) -> ConfigDict:
    """The data set that an export's model was trained on, as the section `data` of a configuration.

    Free strings are not read, since an export may come from anybody and a string may name a folder
    or an address; they take their defaults instead.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: it is damaged, or this version knows no such data set.
    """
    path = folder / "config.json"
    saved = checkpoint.read_json(path).get("data")
    saved = saved if isinstance(saved, dict) else {}
    try:
        usual = schema.defaults(saved.get("name", schema.DEFAULT_DATA))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is of another version: {error}") from error
    known = usual.data.to_dict()
    kept = {n: v for n, v in _without_texts(usual, saved).items() if n in known}
    return ConfigDict({"data": known | kept})


def read_facts(folder: epath.Path) -> Facts:
    """The content of an export's `export.json`.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: it is damaged, or has a format that this version cannot read.
    """
    path = folder / FACTS
    tree = checkpoint.read_json(path)
    number = tree.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise ValueError(
            f"{folder} is an export of format {shown(number)}, made by mmebm_jax "
            f"{plain(tree.get('library'))}, and this is {VERSION}: install that one."
        )
    try:
        return validation.parse(Facts, tree, "export")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({str(error).rstrip('.')}): fetch it anew.") from error


def read_weights(folder: epath.Path, facts: Facts, model: Model, like: Weights) -> Weights:
    """The weights of an export, in float32.

    Args:
      folder: the export's folder.
      facts: from `read_facts`.
      model: initialises networks that were never trained.
      like: shapes and types of the weights.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: it is damaged, or its tensors do not fit this model.
    """
    path = folder / TENSORS
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: fetch the export anew.")
    if path.stat().length > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES >> 30} GiB: fetch the export anew.")
    content = path.read_bytes()
    try:
        if hashlib.sha256(content).hexdigest() != facts.sha256:
            raise ValueError("its checksum differs")
        found = safetensors.numpy.load(content)
    except Exception as error:  # safetensors raises many kinds for damaged files.
        reason = brief(str(error) or type(error).__name__)
        raise ValueError(f"{path} is damaged ({reason}): fetch the export anew.") from error
    stored = like._replace(params={n: like.params[n] for n in _stored_networks(facts.trained)})
    try:
        _check(found, stored, facts.dtype)
    except ValueError as error:  # The file is whole, so the other files describe another model.
        raise ValueError(
            f"{folder / 'config.json'} or {FACTS} beside it does not fit {TENSORS} ({error}): "
            "fetch the export anew."
        ) from error
    weights = jax.tree_util.tree_map_with_path(
        lambda place, leaf: jax.numpy.asarray(
            tensors.restored(_name(place), found, leaf.shape, leaf.dtype)
        ),
        stored,
    )
    if weights.params.keys() == like.params.keys():
        return weights
    fresh = jax.jit(model.init)(jax.random.key(0))
    return weights._replace(params=fresh | weights.params)


def _stored_networks(trained: Sequence[str]) -> list[str]:
    return [n for n in NETWORKS if n in ("inference", "generator") or n in trained]


def _stored(weights: Weights, networks: Sequence[str], dtype: str) -> dict[str, np.ndarray]:
    """Tensors by name, such as "params/generator/…/kernel"."""
    found: dict[str, np.ndarray] = {}
    weights = weights._replace(params={name: weights.params[name] for name in networks})
    for place, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(weights)):
        name, values = _name(place), np.asarray(leaf)
        parts = tensors.stored(name, values, dtype) if np.isfinite(values).all() else {}
        if not parts or not all(np.isfinite(part).all() for part in parts.values()):
            raise ValueError(
                f"{name} holds values that {dtype} cannot: export in float32, or from another "
                "checkpoint if they are not finite."
            )
        found |= parts
    return found


def _check(found: Mapping[str, np.ndarray], like: Weights, dtype: str) -> None:
    wanted: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    for place, leaf in jax.tree_util.tree_leaves_with_path(like):
        wanted |= tensors.layout(_name(place), leaf.shape, np.dtype(leaf.dtype), dtype)
    for name in sorted(wanted.keys() ^ found.keys()):
        raise ValueError(f"{plain(name)} is {'missing' if name in wanted else 'unknown'}")
    for name, (shape, stored) in wanted.items():
        if found[name].shape != shape or found[name].dtype != stored:
            raise ValueError(f"{plain(name)} is {found[name].dtype}{list(found[name].shape)}")


def _name(place: Any) -> str:
    return jax.tree_util.keystr(place, simple=True, separator="/")


def _shared_config(config: ConfigDict) -> dict[str, Any]:
    """The configuration without evaluation, guard and input, and without free strings of `data`."""
    tree = {n: v for n, v in config.to_dict().items() if n not in ("evaluation", "guard", "input")}
    tree["data"] = _without_texts(config, tree["data"])
    return tree


def _without_texts(config: ConfigDict, section: Mapping[str, Any]) -> dict[str, Any]:
    """The section `data` without free strings; names of choices are kept."""
    fields = type(schema.parse(config).data).model_fields
    return {
        name: value
        for name, value in section.items()
        if not isinstance(value, str) or (name in fields and validation.choices(fields[name]))
    }


def _merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for name, value in given.items():
        usual = merged.get(name)
        both = isinstance(usual, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(usual, value) if both else value  # type: ignore[arg-type]
    return merged


def _json(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=2, sort_keys=True) + "\n"
