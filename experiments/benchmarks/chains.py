"""Chains on their own, with `lax.scan` rolled or fully unrolled, and each network on its own."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import workload
from experiments.benchmarks.measure import (
    Call,
    Options,
    Part,
    interleaved,
    ratios,
    spread,
    table,
    typical,
)
from experiments.benchmarks.workload import Workload
from mmebm_jax.distributions import mixture_of_experts


def measure(options: Options) -> Part:
    """Time both chains and the three networks of paper B."""
    shape = workload.SMALL if options.quick else workload.PAPER
    work = workload.build("paper_b", shape, quick=options.quick)
    chain_figures, chain_rows = _chains(work, options)
    network_figures, network_rows = _networks(work, options)
    headers = ["", "rolled, s", "unrolled, s", "rolled / unrolled: min / median / max"]
    headers += ["compiling rolled, s", "unrolled, s"]
    return Part(
        {"chains": chain_figures, "networks": network_figures},
        table(chain_rows, headers)
        + "\n\n"
        + table(network_rows, ["", "forward, s", "forward and backward, s"]),
    )


def _chains(work: Workload, options: Options) -> tuple[dict[str, Any], list[list[Any]]]:
    key, figures, rows = jax.random.key(1), {}, []
    for name, chain in workload.revisions(work).items():
        arguments = chain.arrays, key, chain.start
        calls: dict[str, Call] = {}
        compiling = {}
        for kind, unroll in (("rolled", 1), ("unrolled", chain.chain.num_steps)):
            program = workload.jitted(partial(chain.run, unroll)).lower(*arguments)
            begin = time.perf_counter()
            calls[kind] = partial(program.compile(), *arguments)
            compiling[kind] = time.perf_counter() - begin
            calls[kind]()
        times = interleaved(calls, options.pairs)
        ratio = ratios(times["rolled"], times["unrolled"])
        figures[name] = {
            "seconds": {kind: spread(values) for kind, values in times.items()},
            "rolled_over_unrolled": ratio,
            "compile_seconds": compiling,
        }
        rows.append(
            [
                f"{name} chain, {chain.chain.num_steps} steps",
                *(spread(times[kind]).median for kind in calls),
                *(str(ratio), *compiling.values()),
            ]
        )
    return figures, rows


def _networks(work: Workload, options: Options) -> tuple[dict[str, Any], list[list[Any]]]:
    model, latents, batch = work.model, work.latents, work.batch
    normalised = jax.jit(model.normalised)(work.state.params["energy"])

    def inference_loss(params: Any) -> jax.Array:
        return mixture_of_experts.log_prob(
            model.encode(params, batch).posterior, latents.shared
        ).mean()

    def generator_loss(params: Any) -> jax.Array:
        outputs = model.decode(params, latents)
        return sum((jnp.sum(jnp.square(x)) for x in outputs.values()), jnp.zeros(()))

    losses = {
        "inference": (inference_loss, work.state.params["inference"]),
        "generator": (generator_loss, work.state.params["generator"]),
        "energy": (lambda params: model.data_energy(params, batch).mean(), normalised),
        "spectral normalisation": (
            lambda params: sum(jnp.sum(x) for x in jax.tree.leaves(model.normalised(params))),
            work.state.params["energy"],
        ),
    }
    figures, rows = {}, []
    for name, (loss, params) in losses.items():
        forward, both = workload.jitted(loss), workload.jitted(jax.value_and_grad(loss))
        times = {
            "forward": typical(partial(forward, params), options.repeats),
            "forward_and_backward": typical(partial(both, params), options.repeats),
        }
        figures[name] = times
        rows.append([name, *times.values()])
    return figures, rows
