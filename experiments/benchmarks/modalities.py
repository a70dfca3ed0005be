"""Looping over modalities in Python, as the library does, against stacking them under `vmap`.

Stacked networks need equal shapes, as PolyMNIST's modalities have; their convolutions become
grouped convolutions. Both evaluate the same energies in both chains.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.benchmarks import workload
from experiments.benchmarks.measure import Options, Part, interleaved, ratios, spread, table
from experiments.benchmarks.workload import Revision, Workload
from mmebm_jax.method import prior
from mmebm_jax.modalities.modality import joint_log_likelihood
from mmebm_jax.networks.joint import JOINT_LAYER, ScaledDense
from mmebm_jax.typing import Latents


def stacked(work: Workload) -> dict[str, Revision]:
    """Paper B's chains, "posterior" and "data", over stacked modalities.

    The position of the data chain is one array `[B, M, H, W, C]`.
    """
    model, params = work.model, work.state.params
    names = [modality.name for modality in model.modalities]
    looped = workload.revisions(work)

    def stack(trees: dict[str, Any], axis: int = 0) -> Any:
        return jax.tree.map(lambda *x: jnp.stack(x, axis), *(trees[name] for name in names))

    decoder = model.generator.decoders[0].network
    trunk = model.energy.trunks[0].network

    def posterior(arrays: Any, latents: Latents) -> jax.Array:
        weights, batch = arrays
        outputs = jax.vmap(lambda p: decoder.apply({"params": p}, latents.shared))(weights)
        by_name = dict(zip(names, outputs, strict=True))
        of_prior = prior.latents_energy(None, None, model.prior_family)(latents)
        return of_prior - joint_log_likelihood(model.modalities, by_name, batch)

    def data(arrays: Any, images: jax.Array) -> jax.Array:
        weights, joint = arrays
        each = jax.vmap(lambda p, x: trunk.apply({"params": p}, x), in_axes=(0, 1), out_axes=1)
        hidden = jnp.reshape(each(weights, images), [len(images), -1])  # type: ignore[arg-type]

        def layer(name: str, inputs: Any) -> Any:
            return ScaledDense(len(joint[name]["bias"])).apply({"params": joint[name]}, inputs)

        for name in (JOINT_LAYER, "joint_1"):
            hidden = nn.silu(layer(name, hidden))
        return layer("energy", hidden)[:, 0]

    of_posterior, of_data = looped["posterior"], looped["data"]
    return {
        "posterior": of_posterior._replace(
            arrays=(stack(params["generator"]), work.batch), energy=posterior
        ),
        "data": of_data._replace(
            arrays=(stack(of_data.arrays), of_data.arrays),
            start=stack(of_data.start, axis=1),
            energy=data,
        ),
    }


def measure(options: Options) -> Part:
    """Time both chains, looped and stacked, interleaved."""
    shape = workload.SMALL if options.quick else workload.PAPER
    work = workload.build("paper_b", shape, quick=options.quick)
    looped, key = workload.revisions(work), jax.random.key(4)
    figures: dict[str, Any] = {}
    rows = []
    for name, together in stacked(work).items():
        calls = {}
        for kind, chain in (("looped", looped[name]), ("stacked", together)):
            run = workload.jitted(partial(chain.run, 1))
            calls[kind] = partial(run, chain.arrays, key, chain.start)
            jax.block_until_ready(calls[kind]())
        times = interleaved(calls, options.pairs)
        ratio = ratios(times["stacked"], times["looped"])
        figures[name] = {
            **{kind: spread(values) for kind, values in times.items()},
            "stacked_over_looped": ratio,
        }
        medians = [spread(values).median for values in times.values()]
        rows.append([f"{name} chain, {shape.num_steps} steps", *medians, str(ratio)])
    headers = ["", "looped, s", "stacked, s", "stacked / looped: min / median / max"]
    return Part(figures, table(rows, headers))
