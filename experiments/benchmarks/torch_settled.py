"""Both updates of `private_full` in PyTorch: of the bound, and then of the data energy.

Code shared with paper B's update is in `torch_update`; the rest follows the same style.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from experiments.benchmarks.torch_layers import Arrays, Params
from experiments.benchmarks.torch_networks import (
    Energy,
    Generator,
    Inference,
    loaded,
    private_part,
)
from experiments.benchmarks.torch_update import (
    Trained,
    langevin,
    log_likelihood,
    log_normal,
    log_posterior,
    normalised,
)
from mmebm_jax.method.data_revision import LARGEST
from mmebm_jax.method.model import Model
from mmebm_jax.method.plan import UpdateSettings
from mmebm_jax.networks.joint import SMALLEST_SCALE


class PrivateInference(nn.Module):
    """Experts for shared and private latents, with separate features.

    Attributes:
      auxiliary: raw scales of r_m, `[M, W]`.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.shared = Inference(model, model.num_latents)
        self.private = Inference(model, model.num_private)
        shape = len(model.modalities), model.num_private
        self.auxiliary = nn.Parameter(torch.zeros(shape))

    def forward(self, images: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Means and scales of z, `[M, B, Z]`, and of w, `[M, B, W]`."""
        return self.shared(images), self.private(images)

    def arrays(self, model: Model, params: Params) -> Arrays:
        """Convert our parameters to this network's."""
        names = [modality.name for modality in model.modalities]
        shared = self.shared.arrays(model, params)
        private = self.private.arrays(model, private_part(params, names))
        auxiliary = torch.stack([torch.tensor(params[f"{name}_auxiliary"]) for name in names])
        return (
            {f"shared.{key}": value for key, value in shared.items()}
            | {f"private.{key}": value for key, value in private.items()}
            | {"auxiliary": auxiliary.numpy()}
        )


class BoundNoise(NamedTuple):
    """Random numbers for the bound."""

    strata: Tensor  # dtype=int64, shape=[B]
    shared: Tensor  # shape=[B, Z]
    own: Tensor  # for each modality's expert, shape=[M, B, W]
    other: Tensor  # for r_m, shape=[M, B, W]
    hidden: Tensor  # dtype=bool, shape=[M, B]


class SettledUpdate:
    """Both updates and their state.

    Attributes:
      networks: "inference", "generator" and "energy".
    """

    def __init__(
        self,
        model: Model,
        params: Mapping[str, Params],
        settings: UpdateSettings,
        optimisers: Mapping[str, Any],
        device: str,
    ) -> None:
        modules: dict[str, Any] = {
            "inference": PrivateInference(model),
            "generator": Generator(model),
            "energy": Energy(model),
        }
        self.networks = {
            name: loaded(module, model, params[name]).to(device) for name, module in modules.items()
        }
        self.settings, self.gain = settings, model.spectral_gain
        self.sizes = len(model.modalities), model.num_latents, model.num_private
        self.scale, self.bounds = model.modalities[0].scale, model.modalities[0].bounds
        averaging = settings.averaging
        backbone = {name: self.networks[name] for name in ("inference", "generator")}
        self.backbone = Trained(backbone, optimisers, averaging)
        self.energy = Trained({"energy": self.networks["energy"]}, optimisers, averaging)

    def bound(self, images: Tensor, noise: BoundNoise) -> Tensor:
        """MMVAE+'s negative bound with one stratum per example, for images `[M, B, C, H, W]`."""
        bound, inference = self.settings.bound, self.networks["inference"]
        experts, (means, scales) = inference(images)
        rows = torch.arange(images.shape[1], device=images.device)
        z = experts[0][noise.strata, rows] + experts[1][noise.strata, rows] * noise.shared
        ratio = log_normal(z).sum(-1) - log_posterior(z, experts)
        own = means + scales * noise.own
        auxiliary = functional.softplus(inference.auxiliary) + SMALLEST_SCALE
        is_source = torch.arange(len(images), device=images.device)[:, None] == noise.strata
        shown = is_source | ~noise.hidden
        private = torch.where(shown[..., None], own, auxiliary[:, None] * noise.other)
        each = (log_normal(own) - log_normal(own, means, scales)).sum(-1)
        ratio = bound.shared_factor * ratio + torch.where(shown, each, 0.0).sum(0)
        outputs = self.networks["generator"](z, private)
        return -(log_likelihood(outputs, images, self.scale) + bound.beta * ratio).mean()

    def bound_step(self, raw: Tensor) -> Tensor:
        """One update of the inference network and generator; returns the loss."""
        images = raw.float() / 127.5 - 1.0
        num_modalities, num_latents, num_private = self.sizes
        count, device = images.shape[1], images.device
        shape = num_modalities, count, num_private
        noise = BoundNoise(
            torch.randint(num_modalities, (count,), device=device),
            torch.randn(count, num_latents, device=device),
            torch.randn(shape, device=device),
            torch.randn(shape, device=device),
            torch.rand(shape[:2], device=device) < self.settings.bound.hidden_share,
        )
        loss = self.bound(images, noise)
        self.backbone.step(loss)
        return loss.detach()

    def refine(self, samples: Tensor, images: Tensor) -> Tensor:
        """The data revision of samples, for the same time as in training."""
        network, chains = self.networks["energy"], self.settings.chains
        with torch.no_grad():
            weights = normalised(dict(network.named_parameters()), self.gain)
            of_data = functional_call(network, weights, (images,)).mean()

        def energy(position: Tensor) -> Tensor:
            return functional_call(network, weights, (position,))

        def closing(energies: Tensor, gradient: Tensor) -> Tensor:
            each = 1.0 - (1.0 - chains.gap_share) ** (1.0 / chains.data.num_steps)
            gap = (energies.mean() - of_data).clamp_min(0.0)
            slope = gradient.square().sum(dim=(0, 2, 3, 4)).mean().clamp_min(1e-12)
            return (2.0 * each * gap / slope).sqrt().clamp_max(LARGEST * chains.data.step_size)

        size = closing if chains.gap_share else None
        return langevin(samples, energy, chains.data, self.bounds, size)

    def contrast(self, images: Tensor, refined: Tensor, noise: Tensor) -> Tensor:
        """The energy's loss; noise `[2, M, B, C, H, W]` for data and for samples."""
        settings, network = self.settings, self.networks["energy"]
        both = torch.cat([images, refined], dim=1)
        both = (both + settings.data_noise * torch.cat(list(noise), dim=1)).clamp(*self.bounds)
        weights = normalised(dict(network.named_parameters()), self.gain)
        data, samples = functional_call(network, weights, (both,)).chunk(2)
        penalty = settings.energy_penalty * (data.square() + samples.square())
        return (data - samples + penalty).mean()

    def energy_step(self, raw: Tensor) -> Tensor:
        """One update of the data energy, on samples from the standard prior; returns the loss."""
        images = raw.float() / 127.5 - 1.0
        num_modalities, num_latents, num_private = self.sizes
        count, device = images.shape[1], images.device
        with torch.no_grad():
            shared = torch.randn(count, num_latents, device=device)
            private = torch.randn(num_modalities, count, num_private, device=device)
            samples = self.networks["generator"](shared, private).clamp(-1.0, 1.0)
        refined = self.refine(samples, images)
        noise = torch.randn(2, *images.shape, device=device)
        loss = self.contrast(images, refined, noise)
        self.energy.step(loss)
        return loss.detach()
