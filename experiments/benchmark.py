"""Time the chains: rolled `lax.scan` against fully unrolled, interleaved, at PolyMNIST's shapes.

    python -m experiments.benchmark --workdir=runs/benchmark

Writes `benchmark.json` and `benchmark.md`. Compilation is timed apart; every figure is of one call.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from etils import epath
from tabulate import tabulate

from configs import polymnist
from experiments import command_line
from mmebm_jax import builders, langevin
from mmebm_jax.data.source import Field
from mmebm_jax.files import write_whole
from mmebm_jax.langevin import Chain
from mmebm_jax.revision import joint_log_likelihood
from mmebm_jax.typing import Latents

_PAIRS = flags.DEFINE_integer("pairs", 5, "Interleaved pairs of calls.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Examples a chain.", 1)
_STEPS = flags.DEFINE_integer("steps", 10, "Steps of each chain.", 1)

FIELDS = {f"m{index}": Field("image", (28, 28, 3)) for index in range(5)}
Call = Callable[[], Any]


def chains(batch_size: int, num_steps: int, unroll: bool) -> dict[str, tuple[Any, Any]]:
    """Name → jitted chain and its start, for the posterior and the data revision."""
    model = builders.build_model(polymnist.get_config(), FIELDS)
    params = jax.jit(model.init)(jax.random.key(0))
    normalised = jax.jit(model.normalised)(params["energy"])
    batch = {m.name: jnp.zeros([batch_size, *m.shape]) for m in model.modalities}

    def posterior_energy(latents: jax.Array) -> jax.Array:
        outputs = model.decode(params["generator"], Latents(latents, {}))
        prior = 0.5 * jnp.sum(jnp.square(latents), axis=-1)
        return prior - joint_log_likelihood(model.modalities, outputs, batch)

    def run(energy_fn: Any) -> Any:
        chain = Chain(num_steps, 0.1, 1.0)
        return jax.jit(
            lambda key, start: (
                langevin.run(
                    key, start, energy_fn, chain, unroll=num_steps if unroll else 1
                ).position
            )
        )

    return {
        "posterior chain": (run(posterior_energy), jnp.zeros([batch_size, model.num_latents])),
        "data chain": (run(lambda x: model.data_energy(normalised, x)), batch),
    }


def seconds(call: Call) -> float:
    """Wall-clock seconds of a call, its result awaited."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def main() -> None:
    """Measure and write."""
    workdir = epath.Path(command_line.WORKDIR.value or "runs/benchmark")
    key = jax.random.key(1)
    rolled = chains(_BATCH_SIZE.value, _STEPS.value, unroll=False)
    unrolled = chains(_BATCH_SIZE.value, _STEPS.value, unroll=True)
    results: dict[str, dict[str, Any]] = {}
    for name in rolled:
        calls: dict[str, Call] = {
            kind: (lambda f=function, s=start: f(key, s))  # type: ignore[misc]
            for kind, (function, start) in (("rolled", rolled[name]), ("unrolled", unrolled[name]))
        }
        first = {kind: seconds(call) for kind, call in calls.items()}
        pairs = [{kind: seconds(call) for kind, call in calls.items()} for _ in range(_PAIRS.value)]
        ratios = sorted(pair["rolled"] / pair["unrolled"] for pair in pairs)
        results[name] = {
            "rolled_seconds": statistics.median(pair["rolled"] for pair in pairs),
            "unrolled_seconds": statistics.median(pair["unrolled"] for pair in pairs),
            "ratio_min_median_max": [ratios[0], statistics.median(ratios), ratios[-1]],
            "first_call_seconds": first,
        }
    rows = [
        [
            name,
            f"{r['rolled_seconds']:.3f}",
            f"{r['unrolled_seconds']:.3f}",
            " / ".join(f"{ratio:.2f}" for ratio in r["ratio_min_median_max"]),
            f"{r['first_call_seconds']['rolled']:.1f}",
            f"{r['first_call_seconds']['unrolled']:.1f}",
        ]
        for name, r in results.items()
    ]
    headers = ["", "rolled, s", "unrolled, s", "ratio min / median / max"]
    table = tabulate(rows, [*headers, "first call rolled, s", "unrolled, s"], tablefmt="github")
    workdir.mkdir(parents=True, exist_ok=True)
    settings = {"batch_size": _BATCH_SIZE.value, "steps": _STEPS.value, "shape": "5 x 28x28x3"}
    report = {"device": jax.devices()[0].device_kind, "settings": settings, "chains": results}
    write_whole(workdir / "benchmark.json", json.dumps(report, indent=2) + "\n")
    write_whole(workdir / "benchmark.md", table + "\n")
    print(table)


if __name__ == "__main__":
    command_line.run(main)
