"""Checkpoints in a run folder, written with Orbax.

`checkpoints/<step>/` holds three items: `state` (the step, parameters, optimisers and the number of
their updates), `weights` (what sampling needs: averaged parameters and the base prior p_0) and
`meta` (JSON: which networks have been trained, and `training.loop.Progress`). The run folder also
holds `config.json`, the configuration, and `data.json`, what sampling needs to know about the data.
"""

import gc
import json
import logging
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mmebm_jax.data import checks
from mmebm_jax.data.source import FIRST_VERSION, DataSplits, Field
from mmebm_jax.method.model import NETWORKS
from mmebm_jax.method.train_state import TrainState, Weights
from mmebm_jax.modalities.kinds import KINDS
from mmebm_jax.runs import folders, schema
from mmebm_jax.runs.manifests import ITEMS, check_manifests, check_meta, check_size, silence
from mmebm_jax.storage.files import read_object, write_whole
from mmebm_jax.storage.validation import OneOf, Record, brief, parse, plain, shown
from mmebm_jax.typing import Alphabet

Meta = dict[str, Any]
MOST_JSON_BYTES = 2**20
# A file of arrays has at most twice this size, so a checkpoint can be copied in parts of 13 MB.
FILE_BYTES = 6 * 2**20
LOGGER = logging.getLogger("mmebm_jax")
# From earlier versions, in which a run could be scheduled by wall clock; see `wall_clock_seconds`.
RETIRED_FIELDS = ("budget_seconds",)
# Fields that older runs lack, with the values that reproduce what those runs did.
ADDED_SINCE: dict[str, dict[str, Any]] = {
    "model": {"networks": "small"},
    "elbo": {"expert_weight": 0.1, "hide_tokens": False},
    "posterior": {"private_temperature": 1.0},
    "prior": {
        "learn_clusters": False,
        "shared_temperature": 1.0,
        "private_temperature": 1.0,
        "token_temperature": 1.0,
    },
    "energy": {
        "noisy_samples": False,
        "num_candidates": 1,
        "candidate_temperature": 4.0,
        "completion_temperature": 4.0,
        "sampling_time": 0.0,
        "fit_sampling_time": False,
        "gap_share": 0.0,
        "tokens": "relaxed",
    },
    "schedule": {"freeze_step": 0},
    "guard": {"device": "any"},
    **{f"optimiser.{name}": {"weight_decay": 0.0} for name in NETWORKS},
}
ADDED_AT_TOP = {"tracker": "none"}  # the same for fields outside any section
MOST_NAMED = 3  # differing fields named in an error
LATER_KINDS = ("category",)  # kinds of modality that earlier versions did not have
FREE_FIELDS = (
    "tracker",
    "log_every",
    "picture_every",
    "checkpoint_every",
    "keep_checkpoints",
    "evaluation",
    "guard",
)


class _FieldFacts(Record):
    """The entry of data.json for one modality; `checks.check_fields` checks the shape."""

    kind: Annotated[str, OneOf(KINDS)]
    shape: list[Any]


class Restored(NamedTuple):
    """The parts of a checkpoint that sampling reads."""

    weights: Weights
    step: int
    trained: list[str]  # networks that had had an update by then
    sampling_time: float  # the fitted one; 0 for none


class DataFacts(NamedTuple):
    """What sampling needs to know about a run's data."""

    fields: dict[str, Field]
    alphabet: Alphabet  # what tokens stand for; empty when no modality is text
    version: str  # of the data set


def open_manager(workdir: epath.Path, keep: int | None = None) -> ocp.CheckpointManager:
    """The manager that writes a run's checkpoints; it keeps the newest `keep`, all if None."""
    return _manager(workdir, ocp.CheckpointManagerOptions(max_to_keep=keep))


def save(
    manager: ocp.CheckpointManager, state: TrainState, meta: Meta, *, last: bool = False
) -> None:
    """Write a checkpoint of this step in the background; `manager.wait_until_finished` waits.

    A run that is stopped between its last step and the work after it leaves a checkpoint of that
    step; the `last` checkpoint of the run then takes the next number.

    Raises:
      ValueError: there is already a checkpoint of this step or a later one.
    """
    trained = state._replace(weights=None)  # type: ignore[arg-type]
    step = int(state.step)
    saved = manager.save(
        step + 1 if last and step in manager.all_steps() else step,
        args=ocp.args.Composite(
            state=_saving(trained._asdict() | {"weights": {}}),
            weights=_saving(state.weights._asdict()),
            meta=ocp.args.JsonSave({"trained": trained_networks(state), "progress": meta}),
        ),
    )
    if not saved:
        raise ValueError(f"step {step} is not newer than those in {manager.directory}.")


def newest_step(workdir: epath.Path) -> int | None:
    """The step of a run's newest checkpoint, damaged or not; None if there is none."""
    return _manager(workdir, _reading()).latest_step()


def all_steps(workdir: epath.Path) -> list[int]:
    """The steps of a run's checkpoints in order, damaged or not; empty if there are none."""
    return sorted(_manager(workdir, _reading()).all_steps())


def restore(manager: ocp.CheckpointManager, template: TrainState) -> tuple[TrainState, Meta] | None:
    """The newest readable checkpoint, on the template's devices; None if there are no checkpoints.

    Args:
      manager: the run's manager.
      template: a state of the same structure, shapes and shardings.

    Raises:
      ValueError: there are checkpoints, but none can be read.
    """
    trained = template._replace(weights=None)._asdict() | {"weights": {}}  # type: ignore[arg-type]
    found = _newest_readable(
        manager,
        ocp.args.Composite(
            state=_restoring(trained),
            weights=_restoring(template.weights._asdict()),
            meta=ocp.args.JsonRestore(),
        ),
    )
    if found is None:
        return None
    items, step = found
    _set_aside(manager, [later for later in manager.all_steps() if later > step])
    weights = Weights(**_with_empty(items["weights"], template.weights._asdict()))
    state = TrainState(**(_with_empty(items["state"], trained) | {"weights": weights}))
    return state, items["meta"]["progress"]


def set_newest_aside(manager: ocp.CheckpointManager) -> int:
    """Move the newest checkpoint aside and return the step of the newest one left.

    A single checkpoint is not moved; the step is 0 when there is none.
    """
    steps = sorted(manager.all_steps())
    if len(steps) < 2:
        return steps[0] if steps else 0
    _set_aside(manager, steps[-1:])
    return steps[-2]


def restore_weights(workdir: epath.Path, template: Weights, latest: int | None = None) -> Restored:
    """The newest readable sampling weights of a run; no optimiser is read.

    Args:
      workdir: the run folder.
      template: its devices receive the weights, or this host's first device if it names none.
      latest: the last step to consider; later checkpoints are skipped.

    Raises:
      FileNotFoundError: the run has no checkpoint.
      ValueError: no checkpoint can be read.
    """
    missing = FileNotFoundError(f"{workdir} holds no checkpoint: train there first.")
    if not (workdir / "checkpoints").exists():
        raise missing
    manager = _manager(workdir, _reading())
    wanted = ocp.args.Composite(weights=_restoring(template._asdict()), meta=ocp.args.JsonRestore())
    found = _newest_readable(manager, wanted, latest)
    if found is None:
        raise missing
    items, step = found
    weights = Weights(**_with_empty(items["weights"], template._asdict()))
    meta = items["meta"]
    time = meta["progress"].get("sampling_time", 0.0)
    return Restored(weights, step, meta["trained"], time)


def trained_networks(state: TrainState) -> list[str]:
    """Names of the networks that have had an update."""
    return [name for name, count in state.num_updates.items() if int(count) > 0]


def _set_aside(manager: ocp.CheckpointManager, steps: list[int]) -> None:
    # Moved, since their numbers will be used again, and not deleted, since they are the user's.
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("set aside")
    for step in steps if jax.process_index() == 0 else ():
        folder = epath.Path(manager.directory)
        folder.parent.joinpath("damaged_checkpoints").mkdir(exist_ok=True)
        target, count = folder.parent / "damaged_checkpoints" / str(step), 1
        while target.exists():
            target, count = target.parent / f"{step}_{count}", count + 1
        (folder / str(step)).rename(target)
    if steps:
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("were set aside")
        manager.reload()


def _reading() -> ocp.CheckpointManagerOptions:
    # With any other interval Orbax warns that the interval has no effect.
    return ocp.CheckpointManagerOptions(create=False, read_only=True, save_interval_steps=0)


def _manager(workdir: epath.Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    # Orbax accepts only absolute paths, and a bucket's address already is one.
    folder = (workdir if "://" in str(workdir) else workdir.absolute()) / "checkpoints"
    try:
        # Orbax parses this file for all steps at once, so one damaged step would hide the others.
        for path in folder.glob("*/_CHECKPOINT_METADATA"):
            check_size(path)
        with silence():
            return ocp.CheckpointManager(folder, item_names=ITEMS, options=options)
    except OSError:
        raise
    except Exception as error:  # of many kinds, as in `_newest_readable`
        reason = brief(str(error) or type(error).__name__)
        raise ValueError(
            f"{folder} cannot be listed ({reason}): move the damaged step's folder away."
        ) from error


def _newest_readable(
    manager: ocp.CheckpointManager, wanted: ocp.args.Composite, latest: int | None = None
) -> tuple[Any, int] | None:
    """The items and the step of the newest undamaged checkpoint; None if there are none at all."""
    damaged: dict[int, str] = {}
    steps = [step for step in manager.all_steps() if latest is None or step <= latest]
    for step in sorted(steps, reverse=True):
        with silence():
            try:
                check_manifests(epath.Path(manager.directory) / str(step))
                items = manager.restore(step, args=wanted)
                check_meta(items["meta"])
            except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files.
                damaged[step] = brief(str(error) or type(error).__name__)
            if step in damaged:
                gc.collect()  # Abandoned reads would otherwise print their errors later.
                continue
        for later, reason in damaged.items():
            LOGGER.warning("checkpoint %d is damaged (%s); taking step %d.", later, reason, step)
        return items, step
    if damaged:
        newest = max(damaged)
        raise ValueError(
            f"no checkpoint of {manager.directory} can be read (step {newest}: {damaged[newest]}): "
            "move the folder away to start anew."
        )
    return None


def _saving(tree: Any) -> ocp.args.PyTreeSave:
    return ocp.args.PyTreeSave(_without_empty(tree), ocdbt_target_data_file_size=FILE_BYTES)


def _restoring(tree: Any) -> ocp.args.PyTreeRestore:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here),
        _without_empty(tree),
    )
    return ocp.args.PyTreeRestore(like, ocp.checkpoint_utils.construct_restore_args(like))


def _without_empty(tree: Any) -> Any:
    # Orbax rejects empty arrays, which a model without shared latents has.
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, tree)


def _with_empty(tree: Any, template: Any) -> Any:
    return jax.tree.map(
        lambda like, leaf: leaf if like.size else jnp.zeros(like.shape, like.dtype), template, tree
    )


def write_config(workdir: epath.Path, config: ConfigDict, splits: DataSplits) -> int | None:
    """Save a run's configuration and what sampling needs to know about its data.

    An existing configuration is kept, unless the run is to take more steps. If one of the two files
    has been lost, it is written again.

    Returns:
      The former number of steps if the new one is larger; otherwise None.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path, before = workdir / "config.json", None
    if path.exists():
        before = read_json(path)["num_steps"]
    if before is None or not (workdir / "data.json").exists():
        fields = {name: field._asdict() for name, field in splits.fields.items()}
        facts = {"fields": fields, "alphabet": splits.alphabet, "version": splits.version}
        write_whole(workdir / "data.json", json.dumps(facts, indent=2) + "\n")
    if before is not None and before >= config.num_steps:
        return None
    write_whole(path, config.to_json_best_effort(indent=2, sort_keys=True) + "\n")
    return before


def read_data_facts(workdir: epath.Path) -> DataFacts:
    """What a run's `data.json` says about its data.

    Raises:
      FileNotFoundError: the folder has no such file.
      ValueError: it is damaged or describes modalities that are not supported.
    """
    path = workdir / "data.json"
    tree = read_json(path)
    fields = tree.get("fields")
    version = tree.get("version", FIRST_VERSION)
    try:
        if not isinstance(fields, dict):
            raise ValueError("it lacks fields or alphabet")
        alphabet = _parsed_alphabet(tree.get("alphabet"))
        for name, field in fields.items():
            parse(_FieldFacts, field, f"fields.{plain(name)}")
        facts = DataFacts(
            {n: Field(f["kind"], tuple(f["shape"])) for n, f in fields.items()}, alphabet, version
        )
        checks.check_fields(facts.fields)
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path} is damaged ({reason}): restore it from a copy.") from error
    return facts


def _parsed_alphabet(value: Any) -> Alphabet:
    words = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("it lacks fields or alphabet")
    "".join(words).encode()  # Raises for lone surrogates, which JSON can hold.
    return tuple(words) if isinstance(value, list) else words[0]


def check_data(workdir: epath.Path, splits: DataSplits) -> None:
    """Check that a folder's run was trained on this version of the data set.

    Raises:
      ValueError: it was trained on another one, or the folder's data.json is damaged.
    """
    if not (workdir / "data.json").exists():
        return
    version = read_data_facts(workdir).version
    if version != splits.version:
        raise ValueError(
            f"{workdir} holds a run on version {shown(version)} of this data set, which is now "
            f"{splits.version}: sample from it, or train anew in another --workdir."
        )


def check_resumable(workdir: epath.Path) -> None:
    """Check that training can resume: before 0.2, optimisers had another form.

    Raises:
      ValueError: the run is older; the message says what can still be done.
    """
    path = workdir / "data.json"
    if path.exists() and "version" not in read_json(path):
        raise ValueError(
            f"{workdir} holds a run of mmebm_jax before 0.2, whose optimisers cannot be read: "
            "sample from it or evaluate it, or train anew in another --workdir."
        )


def check_config(workdir: epath.Path, config: ConfigDict, *, may_extend: bool = False) -> None:
    """Check that a folder does not hold a run with another configuration.

    Args:
      workdir: the folder; it may hold no run at all.
      config: the configuration to compare with.
      may_extend: whether the same run with more `num_steps` is accepted.

    Raises:
      ValueError: a field differs (the message names the first ones), the folder's config.json is
        damaged, or the folder is an export.
    """
    folders.check_run(workdir)
    path = workdir / "config.json"
    if not path.exists():
        return
    saved = flatten(read_json(path))
    given = flatten(json.loads(config.to_json_best_effort()))
    if saved.get("data.name") == config.data.name:
        # A version with fewer options for this data set did what their defaults do.
        usual = {f"data.{n}": v for n, v in schema.defaults(config.data.name).data.items()}
        saved, given = usual | saved, usual | given
    differing = [
        name
        for name in sorted(saved.keys() | given.keys())
        if name.split(".")[0] not in (*FREE_FIELDS, *RETIRED_FIELDS)
        and saved.get(name) != given.get(name)
        and not (name == "num_steps" and may_extend and _may_extend(workdir, saved, given))
    ]
    if differing:
        name, *others = differing
        also = f", and {len(others)} more fields that differ" if others else ""
        flags = (f"--config.{plain(n)}={shown(saved.get(n))}" for n in differing[:MOST_NAMED])
        raise ValueError(
            f"{workdir} holds a run with {plain(name)} = {shown(saved.get(name))}, not "
            f"{shown(given.get(name))}{also}: choose another --workdir or the same config, as by "
            f"{' '.join(flags)}."
        )


def _may_extend(workdir: epath.Path, saved: dict[str, Any], given: dict[str, Any]) -> bool:
    before = saved.get("num_steps")
    if not isinstance(before, int) or before > given["num_steps"]:
        return False
    freeze_step = saved.get("schedule.freeze_step") or before
    fit_step = min(saved.get("prior.fit_step", 0), freeze_step)
    if saved.get("prior.fit_mixture") and fit_step >= before:
        raise ValueError(
            f"{workdir} holds a run of {before} steps whose base prior was fitted only at their "
            "end (prior.fit_step), so it cannot be continued: choose another --workdir."
        )
    return True


def wall_clock_seconds(workdir: epath.Path) -> float:
    """The wall-clock budget by which an earlier version scheduled a run; 0 if it used steps."""
    return float(read_json(workdir / "config.json").get("budget_seconds") or 0)


def read_config(workdir: epath.Path) -> ConfigDict:
    """The configuration that a run was started with.

    Raises:
      FileNotFoundError: the folder holds no run.
      ValueError: the folder holds an export, the file is damaged, or a field is missing, unknown or
        invalid.
    """
    folders.check_run(workdir)
    path = workdir / "config.json"
    saved = {n: value for n, value in read_json(path).items() if n not in RETIRED_FIELDS}
    tree = ADDED_AT_TOP | saved
    if isinstance(tree.get("evaluation"), dict):  # Older runs lack fields of newer measures.
        tree["evaluation"] = schema.Evaluation().model_dump() | tree["evaluation"]
    try:
        schema.parse(tree)
    except ValueError as error:
        raise ValueError(
            f"{path} does not fit this version: {error} Correct the file, or sample with the "
            "version that trained the run."
        ) from error
    return ConfigDict(tree)


def read_json(path: epath.Path) -> dict[str, Any]:
    """A JSON object from a run folder or an export.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: it is damaged or absurdly large.
    """
    is_export = folders.is_export(path.parent)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: fetch the export anew."
            if is_export
            else f"{path.parent} holds no run (no {path.name}): train there first."
        )
    mend = "fetch the export anew" if is_export else "restore it from a copy of the run"
    return _with_present_names(read_object(path, mend, MOST_JSON_BYTES))


def _with_present_names(tree: dict[str, Any]) -> dict[str, Any]:
    """A run's JSON file, brought to the fields and names of this version.

    Before 0.2 the kind "text" was called "sequence". Fields added since take the values of
    `ADDED_SINCE`, and likelihoods of kinds added since their defaults. Before
    `completion_temperature` was added, completions used the temperature of samples.
    """
    likelihood, fields = tree.get("likelihood"), tree.get("fields")
    if isinstance(energy := tree.get("energy"), dict) and "candidate_temperature" in energy:
        energy.setdefault("completion_temperature", energy["candidate_temperature"])
    if isinstance(likelihood, dict) and "sequence" in likelihood:
        likelihood.setdefault("text", likelihood.pop("sequence"))
    for section, fields_since in ADDED_SINCE.items():
        *above, last = section.split(".")
        place: Any = tree
        for name in above:
            place = place.get(name) if isinstance(place, dict) else None
        if isinstance(place, dict) and isinstance(place.get(last), dict):
            place[last] = fields_since | place[last]
    if isinstance(likelihood, dict):
        for kind in LATER_KINDS:
            likelihood.setdefault(kind, schema.Likelihoods().model_dump()[kind])
    for field in fields.values() if isinstance(fields, dict) else ():
        if isinstance(field, dict) and field.get("kind") == "sequence":
            field["kind"] = "text"
    return tree


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested sections, by names such as "prior.chain.num_steps"."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
