"""Choose one operation on a CPU and another elsewhere.

`convolution`, `dense`, `noise`, `norm` and `packing` use it, each for one operation.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax


def on_cpu(ours: Callable[..., Any], standard: Callable[..., Any]) -> Callable[..., Any]:
    """Return `ours` on a CPU and `standard` elsewhere; the choice is made during tracing."""

    @wraps(standard)
    def chosen(*arguments: Any, **options: Any) -> Any:
        operation = ours if jax.default_backend() == "cpu" else standard
        return operation(*arguments, **options)

    return chosen
