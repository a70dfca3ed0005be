"""Check piece by piece that the PyTorch update computes what ours does on the same numbers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from experiments.benchmarks.torch_networks import converted, images_first
from experiments.benchmarks.torch_update import Noise, Targets, TorchUpdate, normalised
from experiments.benchmarks.workload import Workload
from mmebm_jax.method import losses
from mmebm_jax.method.losses import Synthesis
from mmebm_jax.method.plan import bind
from mmebm_jax.typing import Latents

TOLERANCE = 1e-4


def device() -> str:
    """PyTorch's device, of the same kind as JAX's."""
    if jax.default_backend() == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise ValueError("JAX has an accelerator and PyTorch has none: install PyTorch for CUDA.")
    return "cuda"


def torch_update(work: Workload, *, compiled: bool) -> TorchUpdate:
    """The PyTorch update with the parameters of a workload, on `device()`."""
    networks = converted(work.model, jax.device_get(work.state.params))
    return TorchUpdate(
        work.model,
        {name: network.to(device()) for name, network in networks.items()},
        work.settings,
        work.terms,
        work.config.optimiser,
        compiled=compiled,
    )


def differences(work: Workload) -> dict[str, float]:
    """Piece → largest difference between the two, relative to the largest value.

    Chains run at temperature 0.
    """
    with jax.default_matmul_precision("highest"), exact_products():
        ours, theirs = _ours(work), _theirs(work)
    return {name: relative(theirs[name], ours[name]) for name in ours}


def assert_equal(work: Workload) -> dict[str, float]:
    """Return `differences` if all are within the tolerance.

    Raises:
      ValueError: names the pieces that differ.
    """
    found = differences(work)
    refuse_differences(found)
    return found


def refuse_differences(found: Mapping[str, float]) -> None:
    """Raise a ValueError that names the pieces beyond the tolerance."""
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    if wrong:
        raise ValueError(f"the PyTorch update differs from ours by more than {TOLERANCE}: {wrong}.")


@contextmanager
def exact_products() -> Iterator[None]:
    """Make PyTorch compute products and convolutions in float32, where a GPU would use TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def relative(values: Any, expected: Any) -> float:
    """The largest difference over the largest expected value."""
    values, expected = np.asarray(values), np.asarray(expected)
    return float(np.abs(values - expected).max() / max(np.abs(expected).max(), 1e-12))


def awaited(step: Callable[[torch.Tensor], Any], raw: torch.Tensor) -> Any:
    """The result of a step, after the GPU has finished."""
    found = step(raw)
    if raw.is_cuda:
        torch.cuda.synchronize()
    return found


def samples_like(work: Workload) -> dict[str, jax.Array]:
    """Uniform numbers in [-1, 1] in the shapes of the batch."""
    return {
        name: jax.random.uniform(jax.random.key(index), values.shape, minval=-1.0)
        for index, (name, values) in enumerate(work.batch.items())
    }


def _inputs(work: Workload) -> tuple[dict[str, jax.Array], jax.Array]:
    """Samples like the batch, and prior latents like the workload's latents."""
    return samples_like(work), jax.random.normal(jax.random.key(8), work.latents.shared.shape)


BOUND_KEY, NOISE_KEY, CHAIN_KEY = 9, 10, 0


def _bound_noise(work: Workload) -> jax.Array:
    """The noise that the bound draws from its key, `[M, B, Z]`."""
    key = jax.random.split(jax.random.key(BOUND_KEY), 3)[0]
    shape = (1, len(work.model.modalities), *work.latents.shared.shape)
    return jax.random.normal(key, shape)[0]


def _data_noise(work: Workload) -> dict[str, jax.Array]:
    """The noise that the energy term draws from its key, name → shape of the batch."""
    keys = jax.random.split(jax.random.key(NOISE_KEY), len(work.batch))
    return {
        name: jax.random.normal(key, values.shape)
        for key, (name, values) in zip(keys, work.batch.items(), strict=True)
    }


def _ours(work: Workload) -> dict[str, Any]:
    """Our own terms and chains, on the same samples that PyTorch gets."""
    chains = work.settings.chains
    chains = chains._replace(
        posterior=chains.posterior._replace(temperature=0.0),
        data=chains.data._replace(temperature=0.0),
    )
    plan = work.plan._replace(settings=work.settings._replace(chains=chains))
    batch, revised, base_prior = work.batch, work.latents, work.state.weights.base_prior
    samples, prior_shared = _inputs(work)
    prior_latents = Latents(prior_shared, {})

    def each_loss(params: Any) -> dict[str, jax.Array]:
        networks = bind(plan, params, base_prior)
        outputs = plan.model.decode(params["generator"], prior_latents)
        synthesis = Synthesis(prior_latents, outputs, samples, samples, batch, jnp.zeros([0, 1]))
        encoding = networks.encode(batch)
        found = (
            losses.bound_term(jax.random.key(BOUND_KEY), plan, networks, encoding, batch)
            | losses.posterior_term(plan, networks, encoding, batch, revised)
            | losses.energy_term(jax.random.key(NOISE_KEY), plan, networks, synthesis)
            | losses.synthesis_term(plan, networks, synthesis)
        )
        return {name: value for name, value in found.items() if name.startswith("loss/")}

    @jax.jit
    def pieces(params: Any) -> dict[str, Any]:
        networks, key = bind(plan, params, base_prior), jax.random.key(CHAIN_KEY)
        weights = networks.params["energy"]
        total, slope = jax.value_and_grad(lambda x: plan.model.data_energy(weights, x).sum())(batch)
        trained = {name: params[name] for name in plan.terms.trained}
        gradients = jax.grad(lambda p: sum(each_loss(params | p).values(), start=jnp.zeros(())))(
            trained
        )
        moved = networks.revise_posterior(key, revised, batch).position
        refined = networks.refine(key, samples).position
        experts = networks.encode(batch).experts
        return {
            "experts": jnp.stack([experts.location, experts.scale]),
            "decoder outputs": networks.decode_frozen(revised),
            "energies": total,
            "energy gradient": slope,
            "posterior chain": moved.shared - revised.shared,
            "data chain": {name: refined[name] - samples[name] for name in samples},
            **each_loss(params),
            **{f"gradient norm {name}": optax.tree.norm(g) for name, g in gradients.items()},
        }

    return {
        name: images_first(value) if isinstance(value, dict) else value
        for name, value in pieces(work.state.params).items()
    }


def _theirs(work: Workload) -> dict[str, Any]:
    update = torch_update(work, compiled=False)
    samples, prior_shared = _inputs(work)
    images, others, data_noise = (
        images_first(batch).to(device()) for batch in (work.batch, samples, _data_noise(work))
    )
    latents, prior_latents, bound_noise = (
        torch.tensor(np.asarray(values), device=device())
        for values in (work.latents.shared, prior_shared, _bound_noise(work))
    )
    weights = normalised(dict(update.energy.named_parameters()), update.gain)
    posterior_chain = update.settings.chains.posterior._replace(temperature=0.0)
    data_chain = update.settings.chains.data._replace(temperature=0.0)

    position = images.clone().requires_grad_()
    total = update.data_energy(weights, position).sum()
    (slope,) = torch.autograd.grad(total, position, retain_graph=True)
    targets = Targets(images, latents, prior_latents, others)
    loss, parts = update.losses(targets, Noise(bound_noise, data_noise))
    loss.backward()
    norms = {
        name: norm([p.grad for p in network.parameters() if p.grad is not None])
        for name, network in update.networks.items()
    }
    results = {
        "experts": torch.stack(update.inference(images)),
        "decoder outputs": update.generator(latents),
        "energies": total,
        "energy gradient": slope,
        "posterior chain": update.revise(latents, images, posterior_chain) - latents,
        "data chain": update.refine(others, weights, data_chain) - others,
        **{f"loss/{name}": value for name, value in parts.items()},
        **{f"gradient norm {name}": value for name, value in norms.items()},
    }
    return {name: value.detach().cpu().numpy() for name, value in results.items()}


def norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The norm over all gradients of a network."""
    return torch.stack([g.norm() for g in gradients]).norm()
