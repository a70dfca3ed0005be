"""Paper B's update in PyTorch, the baseline for ours, with the same networks and arithmetic.

It is written as idiomatic PyTorch: gradients only with respect to the chain's position, detached
parameters inside chains, foreach and fused optimiser kernels. With `compiled`, the energies of both
chains and all losses go through `torch.compile`; Adam is one fused kernel either way.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.benchmarks.torch_networks import Energy, Generator, Inference
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.model import Model
from mmebm_jax.method.plan import Terms, UpdateSettings
from mmebm_jax.networks.spectral import NUM_SQUARINGS, SMALLEST
from mmebm_jax.runs.schema import UNCLIPPED

Weights = dict[str, Tensor]
LOG_TWO_PI = math.log(2 * math.pi)


class Noise(NamedTuple):
    """Random numbers for the losses; the chains draw their own."""

    bound: Tensor  # shape=[M, B, Z]
    data: Tensor  # shape=[M, B, C, H, W]


class Targets(NamedTuple):
    """What the losses are computed on, without gradients."""

    images: Tensor  # shape=[M, B, C, H, W], data
    revised: Tensor  # shape=[B, Z], ũ
    prior_latents: Tensor  # shape=[B, Z], u_p
    refined: Tensor  # shape=[M, B, C, H, W], x̃


def log_normal(values: Tensor, mean: Tensor | float = 0.0, scale: Tensor | None = None) -> Tensor:
    """Elementwise Gaussian log-density in nats; the scale defaults to 1."""
    if scale is None:
        return -0.5 * ((values - mean).square() + LOG_TWO_PI)
    return -0.5 * (((values - mean) / scale).square() + LOG_TWO_PI) - scale.log()


def log_posterior(latents: Tensor, experts: tuple[Tensor, Tensor]) -> Tensor:
    """log q(z | x) of the mixture of experts (`[M, B, Z]`) at `[..., B, Z]`; returns `[..., B]`."""
    each = log_normal(latents.unsqueeze(-3), *experts).sum(-1)
    return each.logsumexp(-2) - math.log(len(experts[0]))


def log_likelihood(outputs: Tensor, images: Tensor, scale: float) -> Tensor:
    """Σ_m log p(x_m | outputs), `[..., M, B, C, H, W]` → `[..., B]`."""
    squares = (images - outputs).square().sum(dim=(-3, -2, -1)).sum(-2)
    size = images.shape[0] * images[0, 0].numel()
    return -0.5 * squares / scale**2 - size * (math.log(scale) + 0.5 * LOG_TWO_PI)


def leading_direction(gram: Tensor) -> Tensor:
    """The unit eigenvector of the largest eigenvalue; see `mmebm_jax.networks.spectral`."""
    if len(gram) == 1:  # Inductor inlines products of 1×1 matrices, 2^16 of them.
        return torch.ones_like(gram[0])
    power = gram
    for _ in range(NUM_SQUARINGS):
        power = power / power.trace().clamp_min(SMALLEST)
        power = power @ power
    column = power[:, power.diagonal().argmax()]
    return column / column.norm().clamp_min(SMALLEST)


def normalised(weights: Mapping[str, Tensor], gain: float) -> Weights:
    """Normalise every kernel to the spectral norm `gain`; the gradient passes through the norm."""
    result = {}
    for name, kernel in weights.items():
        result[name] = kernel
        if kernel.ndim > 1:
            matrix = kernel.flatten(1)
            with torch.no_grad():
                wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
                left = leading_direction(wide @ wide.T)
                right = wide.T @ left
                right = right / right.norm().clamp_min(1e-12)
                if wide is not matrix:
                    left, right = right, left
            result[name] = kernel * (gain / (left @ (matrix @ right)).clamp_min(1e-12))
    return result


def langevin(
    position: Tensor,
    energy: Callable[[Tensor], Tensor],
    chain: Chain,
    bounds: tuple[float, float] | None = None,
    step_size: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """A short run of Langevin dynamics; see `mmebm_jax.method.langevin` for the convention.

    `step_size` maps energies and the gradient to a step size, which replaces the chain's own.
    """
    deviation = math.sqrt(chain.temperature)
    for _ in range(chain.num_steps):
        position = position.detach().requires_grad_()
        energies = energy(position)
        (gradient,) = torch.autograd.grad(energies.sum(), position)
        position = position.detach()
        if step_size is None:
            position = position.add(gradient, alpha=-0.5 * chain.step_size**2)
            if deviation:
                position.add_(torch.randn_like(position), alpha=chain.step_size * deviation)
        else:
            size = step_size(energies.detach(), gradient)
            position = position.addcmul(gradient, size.square(), value=-0.5)
            if deviation:
                position.addcmul_(torch.randn_like(position), size, value=deviation)
        if bounds is not None:
            position.clamp_(*bounds)
    return position.detach()


class Trained:
    """Networks with their optimisation: gradient clipping, Adam, moving averages.

    Attributes:
      networks: name → network, for the networks that the update trains.
      averages: name → moving averages of its parameters.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], optimisers: Mapping[str, Any], averaging: float
    ) -> None:
        self.networks, self.averaging, self.count = networks, averaging, 0
        self.clips = {name: optimisers[name].gradient_clip for name in networks}
        self.adams = {
            name: torch.optim.Adam(
                network.parameters(),
                lr=optimisers[name].learning_rate,
                betas=(optimisers[name].b1, optimisers[name].b2),
                fused=True,
            )
            for name, network in networks.items()
        }
        self.averages = {
            name: [p.detach().clone() for p in network.parameters()]
            for name, network in networks.items()
        }

    def step(self, loss: Tensor) -> None:
        """Take one optimisation step on a loss."""
        loss.backward()
        self.count += 1
        decay = min(self.averaging, self.count / (self.count + 10.0))
        for name, network in self.networks.items():
            parameters = list(network.parameters())
            if self.clips[name] < UNCLIPPED:
                nn.utils.clip_grad_norm_(parameters, self.clips[name], foreach=True)
            self.adams[name].step()
            self.adams[name].zero_grad()
            values = [p.detach() for p in parameters]
            torch._foreach_lerp_(self.averages[name], values, 1.0 - decay)


class TorchUpdate:
    """The update and its state.

    Attributes:
      networks: "inference", "generator" and "energy", as returned by `torch_networks.converted`.
      trained: the same networks with their optimisers.
    """

    def __init__(
        self,
        model: Model,
        networks: Mapping[str, nn.Module],
        settings: UpdateSettings,
        terms: Terms,
        optimisers: Mapping[str, Any],
        *,
        compiled: bool,
    ) -> None:
        self.networks: dict[str, Any] = dict(networks)
        self.settings, self.terms = settings, terms
        self.gain, self.num_latents = model.spectral_gain, model.num_latents
        self.scale = model.modalities[0].scale
        self.bounds = model.modalities[0].bounds
        self.trained = Trained(networks, optimisers, settings.averaging)
        wrap = torch.compile if compiled else lambda function: function
        self.posterior_energy = wrap(self._posterior_energy)
        self.data_energy = wrap(self._data_energy)
        self.losses = wrap(self._losses)
        self.encode = wrap(self.inference)
        self.decode = wrap(self.generator)
        self.normalise = wrap(normalised)

    @property
    def inference(self) -> Inference:
        """The inference network."""
        return self.networks["inference"]

    @property
    def generator(self) -> Generator:
        """The generator."""
        return self.networks["generator"]

    @property
    def energy(self) -> Energy:
        """The data energy, without spectral normalisation."""
        return self.networks["energy"]

    def _posterior_energy(self, weights: Weights, latents: Tensor, images: Tensor) -> Tensor:
        outputs = functional_call(self.generator, weights, (latents,))
        prior = -log_normal(latents).sum(-1)
        return prior - log_likelihood(outputs, images, self.scale)

    def _data_energy(self, weights: Weights, images: Tensor) -> Tensor:
        return functional_call(self.energy, weights, (images,))

    def revise(self, latents: Tensor, images: Tensor, chain: Chain) -> Tensor:
        """The posterior revision of latents `[B, Z]`."""
        weights = {name: p.detach() for name, p in self.generator.named_parameters()}
        return langevin(latents, lambda z: self.posterior_energy(weights, z, images), chain)

    def refine(self, images: Tensor, weights: Weights, chain: Chain) -> Tensor:
        """The data revision of images `[M, B, C, H, W]` under normalised weights."""
        frozen = {name: values.detach() for name, values in weights.items()}
        return langevin(images, lambda x: self.data_energy(frozen, x), chain, self.bounds)

    def bound(
        self, experts: tuple[Tensor, Tensor], images: Tensor, outputs: Tensor, latents: Tensor
    ) -> Tensor:
        """MMVAE's negative bound, `[B]`.

        Args:
          experts: means and scales, `[M, B, Z]`.
          images: data, `[M, B, C, H, W]`.
          outputs: outputs decoded from the strata, `[K, M, B, C, H, W]`.
          latents: one draw per stratum, `[K, B, Z]`.
        """
        ratio = log_normal(latents).sum(-1) - log_posterior(latents, experts)
        values = log_likelihood(outputs, images, self.scale) + self.settings.bound.beta * ratio
        return -values.mean(0)

    def _losses(self, targets: Targets, noise: Noise) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of all mean losses, and each mean loss by name."""
        images, terms = targets.images, self.terms
        num_modalities, num_examples = images.shape[:2]
        means, scales = self.inference(torch.cat([images, targets.refined], dim=1))
        of_data = means[:, :num_examples], scales[:, :num_examples]
        of_samples = means[:, num_examples:], scales[:, num_examples:]
        strata = of_data[0] + of_data[1] * noise.bound
        # The generator decodes everything in one batch, and so does the energy below.
        latents = torch.cat([strata.flatten(0, 1), targets.revised, targets.prior_latents])
        decoded = self.generator(latents).unflatten(1, (num_modalities + 2, num_examples))
        decoded = decoded.transpose(0, 1)
        parts = {
            "elbo": self.bound(of_data, images, decoded[:-2], strata) * terms.elbo,
            "posterior_generator": -terms.posterior_generator
            * log_likelihood(decoded[-2], images, self.scale),
            "posterior_inference": -terms.posterior_inference
            * log_posterior(targets.revised, of_data),
            "synthesis_generator": -terms.synthesis_generator
            * log_likelihood(decoded[-1], targets.refined, self.scale),
            "synthesis_inference": -terms.synthesis_inference
            * log_posterior(targets.prior_latents, of_samples),
        }
        noisy = (images + self.settings.data_noise * noise.data).clamp(*self.bounds)
        weights = normalised(dict(self.energy.named_parameters()), self.gain)
        both = functional_call(self.energy, weights, (torch.cat([noisy, targets.refined], dim=1),))
        data, samples = both[:num_examples], both[num_examples:]
        penalty = self.settings.energy_penalty * (data.square() + samples.square())
        parts["energy"] = data - samples + penalty
        parts = {name: values.mean() for name, values in parts.items()}
        return torch.stack(list(parts.values())).sum(), parts

    def targets(self, raw: Tensor) -> Targets:
        """Run both chains for a batch of uint8 images `[M, B, C, H, W]`."""
        with torch.no_grad():
            images = raw.float() / 127.5 - 1.0
            means, scales = self.encode(images)
            num_modalities, num_examples = images.shape[:2]
            chosen = torch.randint(num_modalities, (num_examples,), device=images.device)
            rows = torch.arange(num_examples, device=images.device)
            start = means[chosen, rows]
            start = start + scales[chosen, rows] * torch.randn_like(start)
            prior_latents = torch.randn_like(start)
            generated = self.decode(prior_latents).clamp(-1.0, 1.0)
            weights = self.normalise(dict(self.energy.named_parameters()), self.gain)
        revised = self.revise(start, images, self.settings.chains.posterior)
        refined = self.refine(generated, weights, self.settings.chains.data)
        return Targets(images, revised, prior_latents, refined)

    def __call__(self, raw: Tensor) -> dict[str, Tensor]:
        """Perform one update; returns every loss."""
        targets = self.targets(raw)
        shape = (*targets.images.shape[:2], self.num_latents)
        bound = torch.randn(shape, device=raw.device)
        noise = Noise(bound, torch.randn_like(targets.images))
        total, parts = self.losses(targets, noise)
        self.trained.step(total)
        return {name: value.detach() for name, value in parts.items()}
