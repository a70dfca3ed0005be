"""Check piece by piece that PyTorch's updates of `private_full` compute what ours do."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from experiments.benchmarks import torch_check, workload
from experiments.benchmarks.torch_networks import images_first
from experiments.benchmarks.torch_settled import BoundNoise, SettledUpdate
from experiments.benchmarks.workload import Shape, Workload, build
from mmebm_jax import cpu
from mmebm_jax.method import bounds, losses
from mmebm_jax.method.losses import Synthesis
from mmebm_jax.method.plan import bind
from mmebm_jax.typing import Latents

BOUND_KEY, NOISE_KEY, CHAIN_KEY = 9, 10, 0


def workloads(shape: Shape, *, quick: bool) -> dict[str, Workload]:
    """`private_full` before and after its freezing step, with the standard prior.

    A fitted prior adds only a few small products; PyTorch has no counterpart of it here.
    """
    settled = build("private_full", shape, quick=quick)
    last = settled.terms._replace(fitted_energy=False, standard_prior=True)
    return {
        "bound": workload.bound_alone(shape, quick=quick),
        "energy": replace(settled, terms=last),
    }


def torch_update(work: Workload) -> SettledUpdate:
    """PyTorch's updates with the parameters of a workload."""
    params = jax.device_get(work.state.params)
    optimisers, device = work.config.optimiser, torch_check.device()
    return SettledUpdate(work.model, params, work.settings, optimisers, device)


def differences(work: Workload) -> dict[str, float]:
    """Piece → largest difference relative to the largest value, with chains at temperature 0."""
    cold = work.settings.chains.data._replace(temperature=0.0)
    chains = work.settings.chains._replace(data=cold)
    work = replace(work, settings=work.settings._replace(chains=chains))
    with jax.default_matmul_precision("highest"), torch_check.exact_products():
        ours, theirs = _ours(work), _theirs(work)
    return {name: torch_check.relative(theirs[name], ours[name]) for name in ours}


def _chain_ends(work: Workload) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The start of the data chain, and lower-energy data whose energies it is to reach."""
    networks = bind(work.plan, work.state.params, work.state.weights.base_prior)
    ends = sorted(
        (torch_check.samples_like(work), work.batch),
        key=lambda batch: -float(networks.data_energy(batch).mean()),
    )
    return ends[0], ends[1]


def _ours(work: Workload) -> dict[str, Any]:
    """Our own terms and chain, on the same samples that PyTorch gets."""
    plan, batch, samples = work.plan, work.batch, torch_check.samples_like(work)
    base_prior = work.state.weights.base_prior
    no_latents = Latents(jnp.zeros([0]), {})
    synthesis = Synthesis(no_latents, {}, samples, samples, batch, jnp.zeros([0, 1]))

    def bound(params: Any) -> jax.Array:
        networks = bind(plan, params, base_prior)
        encoding = networks.encode(batch)
        key = jax.random.key(BOUND_KEY)
        return losses.bound_term(key, plan, networks, encoding, batch)["loss/elbo"]

    def energy(params: Any) -> jax.Array:
        networks = bind(plan, params, base_prior)
        found = losses.energy_term(jax.random.key(NOISE_KEY), plan, networks, synthesis)
        return found["loss/energy"]

    def refined(params: Any) -> dict[str, jax.Array]:
        networks = bind(plan, params, base_prior).in_training(below)
        return networks.refine(jax.random.key(CHAIN_KEY), start).position

    params = work.state.params
    if not plan.terms.learn_energy:
        value, gradient = jax.jit(jax.value_and_grad(bound))(params)
        return {"bound": value} | _norms(gradient, ("inference", "generator"))
    value, gradient = jax.jit(jax.value_and_grad(energy))(params)
    start, below = _chain_ends(work)
    moved = jax.jit(refined)(params)
    chain = images_first({name: moved[name] - start[name] for name in samples})
    return {"energy": value, "data chain": chain} | _norms(gradient, ("energy",))


def _norms(gradient: Any, names: tuple[str, ...]) -> dict[str, jax.Array]:
    return {f"gradient of {name}": optax.tree.norm(gradient[name]) for name in names}


def _theirs(work: Workload) -> dict[str, Any]:
    update, device = torch_update(work), torch_check.device()
    images, samples = (
        images_first(batch).to(device) for batch in (work.batch, torch_check.samples_like(work))
    )
    if not work.plan.terms.learn_energy:
        loss = update.bound(images, BoundNoise(*(torch.tensor(x) for x in _bound_noise(work))))
        loss.backward()
        found = {"bound": loss}
        names: tuple[str, ...] = ("inference", "generator")
    else:
        loss = update.contrast(images, samples, _data_noise(work).to(device))
        loss.backward()
        start, below = (images_first(batch).to(device) for batch in _chain_ends(work))
        found = {"energy": loss, "data chain": update.refine(start, below) - start}
        names = ("energy",)
    for name in names:
        gradients = [p.grad for p in update.networks[name].parameters() if p.grad is not None]
        found[f"gradient of {name}"] = torch_check.norm(gradients)
    return {name: value.detach().cpu().numpy() for name, value in found.items()}


def _bound_noise(work: Workload) -> tuple[np.ndarray, ...]:
    """The noise that `bounds.mmvae` draws from the check's key, as `BoundNoise`."""
    model, count = work.model, work.shape.batch_size
    names, private = [m.name for m in model.modalities], model.num_private
    key = jax.random.key(BOUND_KEY)
    z_key, own_key, noise_key, strata_key, shown_key = jax.random.split(key, 5)
    weights = jnp.full([len(names), count], -jnp.log(len(names)))
    strata = jax.random.categorical(strata_key, weights, axis=0, shape=(1, 1, count))[0, 0]
    rows = jnp.arange(count)
    shared = jax.random.normal(z_key, (len(names), count, model.num_latents))[strata, rows]
    own, other, hidden = [], [], []
    for index, modality in enumerate(model.modalities):
        keys = [jax.random.fold_in(k, index) for k in (own_key, noise_key, shown_key)]
        own.append(jax.random.normal(keys[0], (count, private)))
        other.append(jax.random.normal(keys[1], (len(names), count, private))[strata, rows])
        share = bounds.hidden_share(work.settings.bound, modality)
        hidden.append(jax.random.bernoulli(keys[2], share, (1, 1, count))[0, 0])
    stacked = (jnp.stack(values) for values in (own, other, hidden))
    return tuple(np.array(values) for values in (strata, shared, *stacked))


def _data_noise(work: Workload) -> torch.Tensor:
    """The noise that the energy term draws from the check's key, for data and for samples."""
    keys = jax.random.split(jax.random.key(NOISE_KEY), len(work.batch))
    named = list(zip(keys, work.batch.items(), strict=True))
    data = {name: cpu.normal(k, x.shape, x.dtype) for k, (name, x) in named}
    of_samples = {
        name: cpu.normal(jax.random.fold_in(k, 1), x.shape, x.dtype) for k, (name, x) in named
    }
    return torch.stack([images_first(data), images_first(of_samples)])
