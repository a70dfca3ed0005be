"""Faults injected into a run, for `experiments.reliability.chaos` and for tests.

Each fault strikes once: when the run retries, nothing is wrong.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from mmebm_jax.data.source import Source
from mmebm_jax.method.train_state import Optimisers
from mmebm_jax.runs import builders
from mmebm_jax.training import Run


class NanSource:
    """A source with a NaN in one of its batches, the first time it is read."""

    def __init__(self, source: Source, batch_size: int, number: int) -> None:
        """Corrupt the `number`-th batch that is read, counted from 0."""
        self._source, self._batch_size, self._left = source, batch_size, number

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._source)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.gather`."""
        batch = self._source.gather(indices)
        if len(indices) == self._batch_size:
            self._left -= 1
            if self._left == -1:
                name = next(n for n, v in batch.items() if v.dtype.kind == "f")
                batch[name] = np.concatenate(
                    [np.full_like(batch[name][:1], np.nan), batch[name][1:]]
                )
        return batch


def with_nan_in_batch(run: Run, number: int) -> Run:
    """A run with a NaN in the `number`-th batch that it reads; its data must contain vectors."""
    return run._replace(train_source=NanSource(run.train_source, run.config.batch_size, number))


@contextmanager
def nan_in_gradient(count: int, network: str = "generator") -> Iterator[None]:
    """Put a NaN into a network's gradient at its update number `count`, once."""
    with _changed_optimiser(network, count, lambda update: update + jnp.nan, before=True):
        yield


@contextmanager
def explosion(count: int, network: str = "energy") -> Iterator[None]:
    """Make a network's update number `count` a million times too large, once."""
    with _changed_optimiser(network, count, lambda update: 1e6 * update, before=False):
        yield


@contextmanager
def _changed_optimiser(
    network: str, count: int, change: Callable[[jax.Array], jax.Array], *, before: bool
) -> Iterator[None]:
    """In this context, change update `count` of a network in the first optimisers built."""
    build = builders.build_optimisers
    struck = False

    def build_changed(config: ConfigDict) -> Optimisers:
        nonlocal struck
        optimisers = build(config)
        if struck:
            return optimisers
        struck = True
        inner = optimisers[network]

        def update(gradient: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            now = optax.tree_utils.tree_get_all_with_path(state, "count")[0][1] == count

            def spoil(tree: Any) -> Any:
                return jax.tree.map(lambda leaf: jnp.where(now, change(leaf), leaf), tree)

            gradient = spoil(gradient) if before else gradient
            step, state = inner.update(gradient, state, params, **extra)
            return (step if before else spoil(step)), state

        changed = optax.GradientTransformationExtraArgs(inner.init, update)
        return {**optimisers, network: changed}

    with mock.patch.object(builders, "build_optimisers", build_changed):
        yield
