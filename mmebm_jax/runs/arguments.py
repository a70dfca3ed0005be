"""Checks of the arguments of a `Sampler`; each error is one line that names the fix."""

import math
import operator
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.sampling import METHODS
from mmebm_jax.modalities.modality import Modality, from_raw
from mmebm_jax.storage.validation import plain, shown
from mmebm_jax.typing import Latents

MOST_SAMPLES = 2**20  # of one call
MOST_STEPS = 10**6  # of one chain
# With fewer values, all of a batch of images may lie on one side of grey by chance.
FEWEST_VALUES = 64


def check_key(key: Any) -> None:
    """Reject anything but one typed PRNG key.

    Raises:
      TypeError: not a typed key.
      ValueError: an array of keys.
    """
    if not isinstance(key, jax.Array) or not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        kind = f"{key.dtype}{list(key.shape)}" if hasattr(key, "dtype") else shown(key)
        raise TypeError(f"key is {kind}: give a typed PRNG key, as jax.random.key(0).")
    if key.shape:
        raise ValueError(f"key is an array of shape {key.shape}: give one key, as keys[0].")


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """An argument as an int in [low, high].

    Raises:
      TypeError: not a whole number; bools and floats do not count as one.
      ValueError: outside the range.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {shown(value)}: give a whole number.") from None
    if not low <= number <= high:
        raise ValueError(f"{name} is {shown(number)}: give {low} to {high}.")
    return number


def number(
    name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False
) -> float:
    """An argument as a finite float in [low, high], or in (low, high] with `open_low`.

    Raises:
      TypeError: not a number; bools and strings do not count as one.
      ValueError: outside the range, or not finite.
    """
    try:
        if isinstance(value, bool | np.bool_ | str | bytes) or np.ndim(value):
            raise TypeError
        found = float(value)
    except OverflowError:  # a whole number beyond all floats
        found = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {shown(value)}: give a number.") from None
    if math.isfinite(found) and (low < found if open_low else low <= found) and found <= high:
        return found
    least = f"above {low:g}" if open_low else f"of at least {low:g}"
    most = "" if high == math.inf else f" and at most {high:g}"
    raise ValueError(f"{name} is {shown(value)}: give a finite number {least}{most}.")


def chain(name: str, value: Any) -> Chain:
    """The settings of a chain, checked.

    Raises:
      TypeError: not a `Chain`, or one of its fields is not a number.
      ValueError: a field is out of range.
    """
    if not isinstance(value, Chain):
        raise TypeError(f"{name} is {shown(value)}: give a Chain(num_steps, step_size).")
    size = value.step_size
    return Chain(
        num_steps=whole_number(f"{name}.num_steps", value.num_steps, 0, MOST_STEPS),
        step_size=size if callable(size) else number(f"{name}.step_size", size, 0),
        temperature=number(f"{name}.temperature", value.temperature, 0),
        gradient_clip=number(f"{name}.gradient_clip", value.gradient_clip, 0),
    )


def check_mapping(name: str, values: Any, modalities: tuple[Modality, ...]) -> None:
    """Check that modalities are given as a dict.

    Raises:
      TypeError: not a mapping.
    """
    if not isinstance(values, Mapping):
        raise TypeError(
            f"{name} is a {type(values).__name__}: give a dict, name → array, of any of "
            f"{_names(modalities)}."
        )


def check_some(name: str, values: Any, modalities: tuple[Modality, ...]) -> None:
    """Check that modalities are given as a dict that is not empty.

    Raises:
      TypeError: not a mapping.
      ValueError: it holds no modality.
    """
    check_mapping(name, values, modalities)
    if not values:
        raise ValueError(f"{name} holds no modality: give any of {_names(modalities)}.")


def check_complete(name: str, values: Mapping[str, Any], modalities: tuple[Modality, ...]) -> None:
    """Check that examples have every modality.

    Raises:
      ValueError: modalities are missing; the message names them.
    """
    if missing := [m.name for m in modalities if m.name not in values]:
        raise ValueError(f"{name} needs every modality; missing: {missing}.")


def check_method(method: Any) -> None:
    """Check the name of a method to infer latents.

    Raises:
      ValueError: an unknown method; the message lists the known ones.
    """
    if method not in METHODS:
        raise ValueError(f"method is {shown(method)}: choose one of {', '.join(METHODS)}.")


def check_latents(latents: Any) -> None:
    """Check that latents are `Latents`.

    Raises:
      TypeError: they are of another type.
    """
    if not isinstance(latents, Latents):
        raise TypeError(
            f"latents is a {type(latents).__name__}: give Latents, as prior_latents or infer "
            "returns."
        )


def check_mask(mask: Any, count: int, modalities: tuple[Modality, ...]) -> None:
    """Check that a mask says for each of `count` examples whether it has a modality.

    Raises:
      TypeError: not a mapping.
      ValueError: an unknown name, the wrong shape, or values that are not booleans.
    """
    check_mapping("mask", mask, modalities)
    known = {m.name for m in modalities}
    for name, seen in mask.items():
        if name not in known:
            raise ValueError(
                f"mask has the unknown modality {plain(name)!r}: this model has "
                f"{_names(modalities)}."
            )
        dtype, shape = getattr(seen, "dtype", None), np.shape(seen)
        if dtype is None or np.dtype(dtype) != np.bool_ or shape != (count,):
            kind = type(seen).__name__ if dtype is None else f"{dtype}{list(shape)}"
            raise ValueError(f"mask[{name!r}] is {kind}: give bool[{count}].")


def check_equal_counts(batch: Mapping[str, Any]) -> None:
    """Check that all modalities hold the same number of examples.

    Raises:
      ValueError: the numbers differ; the message lists them.
    """
    counts = {name: len(values) for name, values in batch.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"modalities hold different numbers of examples: {counts}.")


def check_form(
    name: str, shape: tuple[int, ...], dtype: np.dtype, modalities: tuple[Modality, ...]
) -> Modality:
    """The modality of this name, after checking a shape and dtype, raw or in model range.

    Raises:
      ValueError: an unknown name, the wrong shape or dtype, or no examples.
    """
    by_name = {m.name: m for m in modalities}
    if name not in by_name:
        raise ValueError(f"unknown modality {plain(name)!r}: this model has {', '.join(by_name)}.")
    modality = by_name[name]
    kind, is_float = modality.of_kind, _is_float(dtype)
    if not (is_float or kind.is_raw(dtype)):
        raise ValueError(f"modality {name!r} has dtype {dtype}: give {kind.accepted}.")
    wanted = modality.shape if is_float else kind.raw_shape(modality.shape)
    if len(shape) != len(wanted) + 1 or tuple(shape[1:]) != tuple(wanted):
        rows = ", ".join(map(str, wanted))
        raise ValueError(f"modality {name!r} has shape {tuple(shape)}: give [N, {rows}].")
    if not shape[0]:
        raise ValueError(f"modality {name!r} holds no example: give at least one.")
    return modality


def check_in_model_range(batch: Mapping[str, Any], modalities: tuple[Modality, ...]) -> None:
    """Check that a batch holds arrays in model range, not raw ones; values are not read.

    Raises:
      ValueError: not an array, an unknown name, the wrong shape, integers, or different numbers of
        examples.
    """
    for name, values in batch.items():
        if not hasattr(values, "dtype"):
            raise ValueError(
                f"modality {plain(name)!r} is a {type(values).__name__}: give an array in model "
                "range, as as_batch returns."
            )
        check_form(name, np.shape(values), values.dtype, modalities)
        if not _is_float(values.dtype):
            raise ValueError(
                f"modality {name!r} is {values.dtype}: bring it to model range with as_batch first."
            )
    check_equal_counts(batch)


def as_model_range(
    array: Any, name: str, modalities: tuple[Modality, ...], *, check_values: bool = True
) -> jax.Array:
    """One modality, raw or in model range, as float32 in model range.

    Values are not checked inside a transformation such as `jax.grad`, where they are not known.

    Raises:
      ValueError: see `Sampler.as_batch`.
    """
    if not isinstance(array, jax.Array):
        try:
            array = np.asarray(array)
        except ValueError:
            raise ValueError(
                f"modality {plain(name)!r} is no array: give rows of equal shapes."
            ) from None
    modality = check_form(name, array.shape, array.dtype, modalities)
    is_float = _is_float(array.dtype)
    if check_values and not isinstance(array, jax.core.Tracer):
        _check_values(array, modality, is_float)
    if isinstance(array, np.ndarray):
        # JAX supports neither every number width nor foreign byte orders.
        array = array.astype(np.float32 if is_float else np.int32, copy=False)
    if is_float:
        return jax.numpy.asarray(array, jax.numpy.float32)
    return from_raw(modality, jax.numpy.asarray(array))


def _check_values(array: Any, modality: Modality, is_float: bool) -> None:
    where, kind = f"modality {modality.name!r}", modality.of_kind
    raw = np.dtype(kind.raw_dtype)
    # [0, 1] can be mistaken for the model range only where 0 is its middle, as for grey pixels.
    may_be_shifted = kind.bounds[0] < 0 and raw.kind == "u" and array.size >= FEWEST_VALUES
    if not is_float:
        wrong, why = kind.problems(np.asarray(array), modality.shape)
        if wrong.any():
            raise ValueError(f"{where} {why}: correct it.")
        if may_be_shifted and array.max() == 1:
            raise ValueError(
                f"{where} is {raw} with no value above 1 and looks like [0, 1]: multiply it by "
                f"{np.iinfo(raw).max} (in Python, check_values=False takes it as it is)."
            )
        return
    low, high = kind.bounds
    model_range, smallest, largest = f"[{round(low)}, {round(high)}]", array.min(), array.max()
    if np.isnan(smallest) or np.isinf(smallest) or np.isinf(largest):
        what = "NaN" if np.isnan(smallest) else "infinite values"
        raise ValueError(f"{where} holds {what}: give finite values in {model_range}.")
    if smallest < low - 1e-3 or largest > high + 1e-3:
        mend = f", or give {raw}" if raw.kind in "iu" else ""
        raise ValueError(f"{where} leaves {model_range}: scale it{mend}.")
    if may_be_shifted and smallest >= 0:
        raise ValueError(
            f"{where} has no value below 0 and looks like [0, 1]: give {raw}, or scale it to "
            f"{model_range} (in Python, check_values=False takes it as it is)."
        )


def _names(modalities: tuple[Modality, ...]) -> str:
    return ", ".join(m.name for m in modalities)


def _is_float(dtype: Any) -> bool:
    return bool(jax.dtypes.issubdtype(dtype, np.floating))
