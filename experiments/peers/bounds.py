"""Check that our bounds equal MultiVae's, given identical weights, data and latents.

The latents are drawn by our bound and replace MultiVae's draws, in its own order.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from tabulate import tabulate

from configs import polydigits
from experiments.peers import multivae
from mmebm_jax.data.source import Field
from mmebm_jax.method import bounds, prior
from mmebm_jax.method.model import Model
from mmebm_jax.method.plan import bind
from mmebm_jax.modalities.modality import from_raw
from mmebm_jax.runs import builders
from mmebm_jax.typing import Latents

NAMES = ("m0", "m1", "m2")
SIZE, BATCH, NUM_SHARED, NUM_PRIVATE, NUM_SAMPLES, NUM_CLUSTERS = 8, 6, 4, 3, 2, 5
SCALE = 0.75
TOLERANCE = 1e-4

Draws = list[Latents]
"""What our bound decoded, in order; arrays lead with examples: `[B, S, K, Z]` of strata."""


class Peer(NamedTuple):
    """One of MultiVae's models and our equivalent."""

    variant: str  # in configs/methods.py
    theirs: str  # class in multivae.models; its config class is …Config
    ours: dict[str, Any]  # fields of our config
    options: dict[str, Any]  # of their config
    order: Callable[[Draws], list[np.ndarray]]  # our latents in MultiVae's order of drawing
    is_sum: bool = False  # whether their loss is a sum over the batch, not its mean
    note: str = ""


def _each(draws: Draws) -> list[np.ndarray]:
    return [np.asarray(latents.shared) for latents in draws]


def _strata(draws: Draws) -> list[np.ndarray]:
    """For each stratum in turn: z `[S, B, Z]`, its own w, and the w of every other modality."""
    (latents,) = draws
    shape = (BATCH, NUM_SAMPLES, len(NAMES), -1)
    shared = np.asarray(latents.shared).reshape(shape).transpose(2, 1, 0, 3)
    private = {
        name: np.asarray(values).reshape(shape).transpose(2, 1, 0, 3)
        for name, values in latents.private.items()
    }
    found = []
    for stratum, source in enumerate(NAMES):
        found.append(shared[stratum])
        if private:
            others = [name for name in NAMES if name != source]
            found += [private[name][stratum] for name in (source, *others)]
    return found


IWAE = {"elbo.estimator": "iwae", "elbo.num_samples": NUM_SAMPLES}
PRIVATE = {"model.num_private": NUM_PRIVATE}
SAMPLES = {"K": NUM_SAMPLES, "prior_and_posterior_dist": "normal", "loss": "iwae_looser"}
OWN = {"modalities_specific_dim": NUM_PRIVATE, "beta": 2.5}
PEERS = (
    Peer("mvae", "MVAE", {}, {"beta": 2.5, "warmup": 0}, _each),
    Peer(
        "mmvae", "MMVAE", IWAE | {"elbo.beta": 1.0}, SAMPLES, _strata, True,
        note="at β = 1: theirs reads no β",
    ),
    Peer("mmvae_plus", "MMVAEPlus", IWAE | PRIVATE, SAMPLES | OWN, _strata, True),
    Peer(
        "mopoe", "MoPoE", {}, {"beta": 2.5}, _each,
        note="theirs deals the batch out to subsets in order, ours draws one for each example",
    ),
    Peer("mvtcae", "MVTCAE", {"elbo.total_correlation": 0.1}, {"alpha": 0.1, "beta": 2.5}, _each),
    Peer(
        "cmvae", "CMVAE",
        IWAE | PRIVATE | {"prior.num_components": NUM_CLUSTERS},
        SAMPLES | OWN | {"number_of_clusters": NUM_CLUSTERS},
        _strata, True,
    ),
    Peer("jmvae", "JMVAE", {}, {"alpha": 0.1, "beta": 2.5, "warmup": 0}, _each),
)  # fmt: skip


class Compared(NamedTuple):
    """One bound: both values and their difference."""

    name: str
    ours: float
    theirs: float
    note: str = ""

    @property
    def difference(self) -> float:
        """The difference relative to our value."""
        return abs(self.theirs - self.ours) / max(abs(self.ours), 1e-12)


def compare(peers: Sequence[Peer] = PEERS) -> list[Compared]:
    """Compute every bound, ours and theirs."""
    models = multivae.load()
    found = []
    for peer in peers:
        model, params, batch, value, draws = _ours(peer)
        theirs = _theirs(models, peer, model, params, batch, draws)
        found.append(Compared(peer.theirs, value, theirs, peer.note))
    return found


def rows(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """The comparison as rows for a file of results."""
    return [
        {
            "method": c.name,
            "loss_ours": c.ours,
            "loss_theirs": c.theirs,
            "loss_difference": f"{c.difference:.0e}",
            "note": c.note,
        }
        for c in found
    ]


def table(found: Sequence[Compared]) -> str:
    """The comparison as a Markdown table."""
    lines = [
        [c.name, f"{c.ours:.6g}", f"{c.theirs:.6g}", f"{c.difference:.1e}", c.note] for c in found
    ]
    headers = ["bound", "ours", "MultiVae's", "relative difference", "what differs otherwise"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _ours(peer: Peer) -> tuple[Model, Any, dict[str, np.ndarray], float, Draws]:
    """Model, parameters, batch, our mean negative bound, and the latents it decoded."""
    config = polydigits.get_config(peer.variant)
    config.model.update(num_latents=NUM_SHARED, width=4, hidden=16)
    config.likelihood.image.scale = SCALE
    config.elbo.beta = 2.5
    config.update_from_flattened_dict(peer.ours)
    builders.validate(config)
    model = builders.build_model(config, {n: Field("image", (SIZE, SIZE, 3)) for n in NAMES})
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: rng.normal(0, 0.15, x.shape).astype(np.float32), shapes)
    batch = {
        m.name: np.asarray(from_raw(m, rng.integers(0, 256, (BATCH, *m.shape), np.uint8)))
        for m in model.modalities
    }
    plan = builders.build_plan(config, model, builders.terms_at(config, config.num_steps - 1))

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def evaluate(params: Any, batch: Any) -> tuple[jax.Array, Draws]:
        networks = bind(plan, params, model.standard_prior(config.prior.num_components))
        decoded: Draws = []

        def decode(latents: Latents, names: Any = None) -> dict[str, jax.Array]:
            decoded.append(latents)
            return model.decode(params["generator"], latents, names)

        setting = bounds.Setting(
            model.modalities,
            decode,
            model.prior_family,
            prior.relative_energy(networks.fitted_prior, None, model.prior_family),
            model.aggregation,
        )
        encoding = networks.encode(batch)
        key = jax.random.key(1)
        each = bounds.negative_bound(key, encoding, batch, plan.settings.bound, setting)
        return jnp.mean(each), decoded

    with jax.default_matmul_precision("highest"):
        value, draws = jax.device_get(evaluate(params, batch))
    return model, params, batch, float(value), draws


def _theirs(
    models: Any,
    peer: Peer,
    model: Model,
    params: Any,
    batch: dict[str, np.ndarray],
    draws: Draws,
) -> float:
    """Their loss per example with our weights and latents."""
    options = {
        "n_modalities": len(NAMES),
        "latent_dim": NUM_SHARED,
        "input_dims": dict.fromkeys(NAMES, (3, SIZE, SIZE)),
        "decoders_dist": dict.fromkeys(NAMES, "normal"),
        "decoder_dist_params": {name: {"scale": SCALE} for name in NAMES},
    }
    config = getattr(models, f"{peer.theirs}Config")(**options, **peer.options)
    parts = {k: v for k, v in multivae.networks(model, params).items() if v is not None}
    theirs = getattr(models, peer.theirs)(config, **parts)
    if peer.variant == "cmvae":
        with torch.no_grad():
            theirs._pc_params.copy_(torch.tensor(params["generator"]["cluster_logit"]))
            for cluster, mean in enumerate(params["generator"]["cluster_mean"]):
                theirs.mean_clusters[cluster].copy_(torch.tensor(mean)[None])
    images = {name: torch.tensor(x.transpose(0, 3, 1, 2).copy()) for name, x in batch.items()}
    data = _dataset_type()(images)
    with torch.no_grad(), _drawing(peer.order(draws)):
        loss = float(theirs(data, epoch=100).loss)
    return loss / BATCH if peer.is_sum else loss


def _dataset_type() -> Any:
    import importlib

    return importlib.import_module(f"{multivae.OF_DATA}.base").MultimodalBaseDataset


@contextmanager
def _drawing(values: list[np.ndarray]) -> Iterator[None]:
    """Make PyTorch's Gaussians draw exactly these values, in order.

    Raises:
      ValueError: the number or the shapes of the draws differ.
    """
    left = list(values)

    def drawn(self: Any, sample_shape: Any = ()) -> torch.Tensor:
        shape = (*sample_shape, *self.loc.shape)
        if not left or math.prod(shape) != left[0].size:
            expected = left[0].shape if left else "none"
            raise ValueError(f"MultiVae draws {shape} where ours drew {expected}.")
        return torch.tensor(left.pop(0)).reshape(shape)

    with mock.patch.object(torch.distributions.Normal, "rsample", drawn):
        yield
    if left:
        raise ValueError(f"MultiVae drew {len(left)} latents fewer than ours.")
