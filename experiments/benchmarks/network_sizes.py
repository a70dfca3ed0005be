"""Parameter counts of every choice of networks, and the FLOPs of an update."""

from typing import Any

import jax
from ml_collections import ConfigDict

from configs import polymnist
from experiments.benchmarks import flops, workload
from experiments.benchmarks.measure import Options, Part, table
from experiments.benchmarks.workload import PAPER, SMALL, Workload
from mmebm_jax.data.source import Field
from mmebm_jax.modalities.kinds import NETWORKS

# PolyMNIST, and a 64-pixel picture with a sentence, each with its choices of networks.
PICTURES = {f"m{index}": Field("image", (28, 28, 3)) for index in range(5)}
SENTENCE = {"picture": Field("image", (64, 64, 3)), "sentence": Field("text", (32, 2000))}
CASES = {
    "PolyMNIST": (PICTURES, ("small", "resnet")),
    "picture and sentence": (SENTENCE, NETWORKS),
}
METHODS = {"mmvae_plus": "MMVAE+", "paper_b": "paper B"}
ROLES = ("inference", "generator", "energy")


def measure(options: Options) -> Part:
    """Only count: nothing is compiled or run."""
    shape = SMALL if options.quick else PAPER
    rows: list[dict[str, Any]] = []
    for case, (fields, choices) in CASES.items():
        for networks in choices:
            row: dict[str, Any] = {"method": f"{case}, {networks}"}
            for variant, method in METHODS.items():
                work = workload.of_fields(_config(variant, networks), fields, shape)
                row[f"gflops_{variant}"] = round(flops.of_update(work) / 1e9, 1)
                if method == "paper B":
                    row |= {f"millions_{name}": size for name, size in _millions(work).items()}
            rows.append(row)
    headers = ["", *(f"{role}, 10⁶" for role in ROLES), *(f"GFLOP, {m}" for m in METHODS.values())]
    shown = [
        [row["method"], *(row[f"millions_{r}"] for r in ROLES)]
        + [row[f"gflops_{variant}"] for variant in METHODS]
        for row in rows
    ]
    return Part({"rows": rows}, table(shown, headers), rows)


def _config(variant: str, networks: str) -> ConfigDict:
    config = polymnist.get_config(variant)
    config.model.networks = networks
    return config


def _millions(work: Workload) -> dict[str, float]:
    return {
        role: round(sum(leaf.size for leaf in jax.tree.leaves(work.state.params[role])) / 1e6, 2)
        for role in ROLES
    }
