"""Classifiers, one per modality, on which coherence and Fréchet distances are based.

A coherence is only as good as its classifiers. They are trained here, on the training split; their
test accuracy is saved with them and should be reported with every number that they produce.
"""

import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import traverse_util

from mmebm_jax.modalities.kinds import KINDS
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.npz import read_npz
from mmebm_jax.storage.places import place
from mmebm_jax.typing import Params

ToModel = Callable[[np.ndarray], Any]

_FILE = "classifiers.npz"
_HEADER = "header"


def train_classifier(
    key: jax.Array,
    kind: str,
    inputs: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    steps: int = 250,
    batch_size: int = 250,
    learning_rate: float = 3e-3,
    to_model: ToModel = np.asarray,
) -> Params:
    """Trains one classifier by cross entropy with Adam on a cosine schedule.

    Images are shifted by up to one pixel at random. The batches, the shifts and the initial
    parameters depend only on `key`.

    Args:
        key: typed PRNG key.
        kind: "image", "text" or "vector".
        inputs: `[N, ...]`, raw as the source holds them; one batch at a time is converted.
        labels: `[N]` integers in [0, num_classes).
        num_classes: number of classes.
        steps: gradient steps.
        batch_size: examples per step; at most N.
        learning_rate: Adam's learning rate at the start of the cosine schedule.
        to_model: raw `[B, ...]` to float32 `[B, H, W, C]` in [-1, 1], `[B, L, V]` or `[B, D]`.

    Returns:
        The classifier's parameters.

    Raises:
        ValueError: unknown kind, no examples, lengths that differ, labels out of range, an image
            side that is not a multiple of 4, or fewer than one step.
    """
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    if not len(inputs) or labels.shape != (len(inputs),):
        raise ValueError(
            f"inputs {inputs.shape} and labels {labels.shape} must hold one label per example"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels span {labels.min()}..{labels.max()}; they must lie in 0..{num_classes - 1}"
        )
    if steps < 1:
        raise ValueError(f"steps is {steps}; train for at least 1")
    batch_size = min(batch_size, len(inputs))
    init_key, data_key = jax.random.split(key)
    example = jnp.asarray(to_model(inputs[:1]), jnp.float32)
    _check_shape(kind, example.shape)
    optimizer = (learning_rate, steps)
    params, state = _init(init_key, kind, num_classes, optimizer, example)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(data_key)))
    order = np.empty(0, np.int64)
    # Not a lax.scan: convolution gradients inside a loop body are some 30 times slower on XLA:CPU.
    for _ in range(steps):
        if len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(len(inputs))])
        index, order = order[:batch_size], order[batch_size:]
        raw = KINDS[kind].augment(rng, inputs[index])
        batch = jnp.asarray(to_model(raw), jnp.float32)
        target = jnp.asarray(labels[index], jnp.int32)
        params, state = _train_step(kind, num_classes, optimizer, params, state, batch, target)
    return params


def train_classifiers(
    key: jax.Array,
    kinds: Mapping[str, str],
    inputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    num_classes: int,
    *,
    steps: int = 250,
    batch_size: int = 250,
    learning_rate: float = 3e-3,
    to_model_range: Callable[[dict[str, np.ndarray]], Mapping[str, Any]] = dict,
) -> dict[str, Params]:
    """Trains one classifier per modality; modalities of equal kind and shape compile once.

    Args:
        key: typed PRNG key.
        kinds: modality name to "image", "text" or "vector".
        inputs: modality name to raw `[N, ...]`, for every name in `kinds`.
        labels: `[N]` integers in [0, num_classes).
        num_classes: number of classes.
        steps: gradient steps for each modality.
        batch_size: examples per step.
        learning_rate: Adam's learning rate at the start of the cosine schedule.
        to_model_range: a raw batch (dict) to a batch in the model's range.

    Returns:
        Modality name to parameters.

    Raises:
        ValueError: a modality without inputs, or as `train_classifier`.
    """
    missing = sorted(set(kinds) - set(inputs))
    if missing:
        raise ValueError(f"no inputs for modalities {missing}; pass an array for each")
    keys = jax.random.split(key, len(kinds))

    def to_model(name: str, raw: np.ndarray) -> Any:
        return to_model_range({name: raw})[name]

    return {
        name: train_classifier(
            modality_key,
            kind,
            inputs[name],
            labels,
            num_classes,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            to_model=functools.partial(to_model, name),
        )
        for modality_key, (name, kind) in zip(keys, kinds.items(), strict=True)
    }


def predict(
    kind: str,
    params: Params,
    inputs: Any,
    *,
    batch_size: int = 500,
    to_model: ToModel = np.asarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Classifies every example, including the last incomplete batch.

    Args:
        kind: "image", "text" or "vector".
        params: from `train_classifier`.
        inputs: `[N, ...]`, in the range that `to_model` reads (the model's own by default).
        batch_size: examples at a time; compiles once per kind, shape and batch size.
        to_model: as in `train_classifier`.

    Returns:
        Logits `[N, num_classes]` and features `[N, NUM_FEATURES]`, float32.

    Raises:
        ValueError: unknown kind, no examples, or examples of a shape other than in training.
    """
    if not len(inputs):
        raise ValueError("no examples to classify; pass at least one")
    parts = []
    for count, batch in padded_batches(inputs, batch_size, to_model):
        _check_shape(kind, batch.shape)
        _check_params(kind, params, batch.shape)
        logits, features = _apply(kind, params, batch)
        parts.append((np.asarray(logits)[:count], np.asarray(features)[:count]))
    logits, features = zip(*parts, strict=True)
    return np.concatenate(logits), np.concatenate(features)


def padded_batches(
    inputs: Any, batch_size: int, to_model: ToModel
) -> Iterator[tuple[int, jax.Array]]:
    """All examples in model range, in batches of one compiled shape.

    Args:
        inputs: `[N, ...]`, in the range that `to_model` reads.
        batch_size: B, examples at a time; the last batch is padded to it.
        to_model: a raw batch to model range.

    Yields:
        The number of examples in a batch, its first rows, and the batch `[B, ...]` float32.
    """
    for start in range(0, len(inputs), batch_size):
        raw = np.asarray(inputs[start : start + batch_size])
        padding = [(0, batch_size - len(raw))] + [(0, 0)] * (raw.ndim - 1)
        yield len(raw), jnp.asarray(to_model(np.pad(raw, padding)), jnp.float32)


def accuracy(
    kind: str,
    params: Params,
    inputs: Any,
    labels: np.ndarray,
    *,
    batch_size: int = 500,
    to_model: ToModel = np.asarray,
) -> float:
    """Returns the share in [0, 1] of `inputs` `[N, ...]` whose largest logit is at `labels` `[N]`.

    Raises:
        ValueError: the numbers of labels and inputs differ, or as `predict`.
    """
    if len(inputs) != len(labels):
        raise ValueError(f"{len(inputs)} inputs but {len(labels)} labels; pass one per example")
    logits, _ = predict(kind, params, inputs, batch_size=batch_size, to_model=to_model)
    return float(np.mean(logits.argmax(-1) == np.asarray(labels)))


def save_classifiers(
    path: epath.PathLike,
    classifiers: Mapping[str, Params],
    accuracies: Mapping[str, float],
    meta: Mapping[str, Any],
) -> None:
    """Writes `classifiers.npz` atomically in the folder `path`, which is made if absent.

    Args:
        path: folder, local or remote.
        classifiers: modality name to parameters.
        accuracies: modality name to test accuracy in [0, 1].
        meta: JSON values that say on what and how they were trained; loading compares them.

    Raises:
        TypeError: `meta` holds something that JSON cannot represent.
    """
    folder = place(path)
    header = {"accuracies": {k: float(v) for k, v in accuracies.items()}, "meta": dict(meta)}
    flat = traverse_util.flatten_dict({"params": dict(classifiers)}, sep="/")
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in flat.items()}
    arrays[_HEADER] = np.asarray(json.dumps(header))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / _FILE, buffer.getvalue())


def load_classifiers(
    path: epath.PathLike, meta: Mapping[str, Any]
) -> tuple[dict[str, Params], dict[str, float]] | None:
    """Reads what `save_classifiers` wrote in the folder `path`.

    Returns:
        (modality name to parameters, modality name to test accuracy), or None if there is no file
        or it was saved with a different `meta`.

    Raises:
        ValueError: the file is damaged.
    """
    file = place(path) / _FILE
    if not file.exists():
        return None
    try:
        arrays = read_npz(file)
        header = json.loads(str(arrays.pop(_HEADER)))
        saved_meta, accuracies = header["meta"], header["accuracies"]
        classifiers = traverse_util.unflatten_dict(arrays, sep="/")["params"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}); delete it to train again") from error
    # Converted through JSON, so that a tuple in `meta` equals the list it was saved as.
    if saved_meta != json.loads(json.dumps(dict(meta))):
        return None
    return classifiers, accuracies


def _module(kind: str, num_classes: int) -> nn.Module:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; use one of {', '.join(KINDS)}.")
    return KINDS[kind].classifier(num_classes)


def _check_shape(kind: str, shape: tuple[int, ...]) -> None:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; use one of {', '.join(KINDS)}.")
    wanted = KINDS[kind]
    problem = f"need [B, {', '.join(wanted.dimensions)}]"
    if len(shape) == wanted.rank + 1:
        problem = wanted.problem_of_shape(shape[1:])
    if problem:
        raise ValueError(f"examples of kind {kind} have shape {shape}: {problem}.")


def _check_params(kind: str, params: Params, shape: tuple[int, ...]) -> None:
    num_classes = params["logits"]["bias"].shape[0]
    example = jax.ShapeDtypeStruct(shape, jnp.float32)
    module = _module(kind, num_classes)
    expected = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
    shapes, wanted = (jax.tree.map(jnp.shape, tree) for tree in (params, expected))
    if shapes != wanted:
        raise ValueError(f"this {kind} classifier was not trained on examples of {shape[1:]}")


def _adam(optimizer: tuple[float, int]) -> optax.GradientTransformation:
    learning_rate, steps = optimizer
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _init(
    key: jax.Array, kind: str, num_classes: int, optimizer: tuple[float, int], example: jax.Array
) -> tuple[Params, optax.OptState]:
    params = _module(kind, num_classes).init(key, example)["params"]
    return params, _adam(optimizer).init(params)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def _train_step(
    kind: str,
    num_classes: int,
    optimizer: tuple[float, int],
    params: Params,
    state: optax.OptState,
    inputs: jax.Array,
    labels: jax.Array,
) -> tuple[Params, optax.OptState]:
    def loss_fn(params: Params) -> jax.Array:
        logits, _ = _module(kind, num_classes).apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    updates, state = _adam(optimizer).update(jax.grad(loss_fn)(params), state)
    return optax.apply_updates(params, updates), state


@functools.partial(jax.jit, static_argnums=0)
def _apply(kind: str, params: Params, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    num_classes = params["logits"]["bias"].shape[0]
    outputs: Any = _module(kind, num_classes).apply({"params": params}, inputs)
    return outputs
