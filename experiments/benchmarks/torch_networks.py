"""The networks for PolyMNIST in PyTorch, channels first, with conversion of our parameters.

On CPUs, channels first is PyTorch's fastest format for these small images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmarks import torch_residual, torch_small
from experiments.benchmarks.torch_layers import Arrays, Maps, Params, from_flat, plain
from mmebm_jax.method.model import Model
from mmebm_jax.networks.image import ImageDecoder, ImageExpert, ImageTrunk
from mmebm_jax.networks.image_residual import (
    ResidualImageDecoder,
    ResidualImageExpert,
    ResidualImageTrunk,
)
from mmebm_jax.networks.joint import SMALLEST_SCALE

COUNTERPARTS: dict[type, Any] = {
    ImageExpert: torch_small.Expert,
    ImageDecoder: torch_small.Decoder,
    ImageTrunk: torch_small.Trunk,
    ResidualImageExpert: torch_residual.Expert,
    ResidualImageDecoder: torch_residual.Decoder,
    ResidualImageTrunk: torch_residual.Trunk,
}
"""Our sub-network → PyTorch's, which is built of ours and of the shape or size of its inputs."""


def counterpart(network: nn.Module | Any, inputs: Maps | int) -> Any:
    """The PyTorch counterpart of one of our sub-networks."""
    return COUNTERPARTS[type(network)](network, inputs)


def _maps(shape: tuple[int, ...]) -> Maps:
    height, width, channels = shape
    return height, width, channels


def _num_features(module: Any) -> int:
    return int(np.prod(module.features))


class Inference(nn.Module):
    """Images `[M, B, C, H, W]` → means and scales of the experts, each `[M, B, size]`."""

    def __init__(self, model: Model, size: int) -> None:
        super().__init__()
        parts = zip(model.inference.experts, model.modalities, strict=True)
        self.experts = nn.ModuleList(counterpart(p.network, _maps(m.shape)) for p, m in parts)
        inputs = [_num_features(expert) for expert in self.experts]
        self.means = nn.ModuleList(nn.Linear(count, size) for count in inputs)
        self.scales = nn.ModuleList(nn.Linear(count, size) for count in inputs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode every modality."""
        features = [expert(image) for expert, image in zip(self.experts, images, strict=True)]
        means = [layer(values) for layer, values in zip(self.means, features, strict=True)]
        raw = [layer(values) for layer, values in zip(self.scales, features, strict=True)]
        scales = [functional.softplus(values) + SMALLEST_SCALE for values in raw]
        return torch.stack(means), torch.stack(scales)

    def arrays(self, model: Model, params: Params) -> Arrays:
        """Convert our parameters to this network's."""
        arrays: Arrays = {}
        for index, (expert, modality) in enumerate(
            zip(self.experts, model.modalities, strict=True)
        ):
            name = modality.name
            arrays |= _under(f"experts.{index}", expert.arrays(params[name]))
            maps: Any = expert.features
            arrays |= from_flat(f"means.{index}", params[f"{name}_mean"], maps)
            arrays |= from_flat(f"scales.{index}", params[f"{name}_scale"], maps)
        return arrays


class Generator(nn.Module):
    """Latents `[B, Z]`, and private latents `[M, B, W]` → images `[M, B, C, H, W]`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        size = model.num_latents + model.num_private
        self.decoders = nn.ModuleList(
            counterpart(part.network, size) for part in model.generator.decoders
        )

    def forward(self, latents: Tensor, private: Tensor | None = None) -> Tensor:
        """Decode every modality."""
        if private is None:
            return torch.stack([decoder(latents) for decoder in self.decoders])
        pairs = zip(self.decoders, private, strict=True)
        return torch.stack([decoder(torch.cat([latents, w], dim=1)) for decoder, w in pairs])

    def arrays(self, model: Model, params: Params) -> Arrays:
        """Convert our parameters to this network's."""
        arrays: Arrays = {}
        for index, (decoder, modality) in enumerate(
            zip(self.decoders, model.modalities, strict=True)
        ):
            own = decoder.arrays(params[modality.name])
            arrays |= _under(f"decoders.{index}", own)
        return arrays


class Energy(nn.Module):
    """Images `[M, B, C, H, W]` → energies `[B]`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        hidden = model.energy.hidden
        parts = zip(model.energy.trunks, model.modalities, strict=True)
        self.trunks = nn.ModuleList(counterpart(p.network, _maps(m.shape)) for p, m in parts)
        size = sum(_num_features(trunk) for trunk in self.trunks)
        self.first = nn.Linear(size, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Joint energies of a batch over all modalities."""
        features = [trunk(image) for trunk, image in zip(self.trunks, images, strict=True)]
        joint = functional.silu(self.first(torch.cat(features, dim=1)))
        return self.last(functional.silu(self.second(joint)))[:, 0]

    def arrays(self, model: Model, params: Params) -> Arrays:
        """Convert our parameters to this network's."""
        arrays: Arrays = {}
        maps: list[Maps] = []
        for index, (trunk, modality) in enumerate(zip(self.trunks, model.modalities, strict=True)):
            arrays |= _under(f"trunks.{index}", trunk.arrays(params[modality.name]))
            maps += trunk.features
        arrays |= from_flat("first", params["joint_0"], maps)
        return arrays | plain("second", params["joint_1"]) | plain("last", params["energy"])


def converted(model: Model, params: Mapping[str, Params]) -> dict[str, nn.Module]:
    """The three networks with our parameters.

    Args:
      model: a model of images only, without private latents.
      params: our parameters, by network.

    Returns:
      "inference", "generator" and "energy".
    """
    networks: dict[str, Any] = {
        "inference": Inference(model, model.num_latents),
        "generator": Generator(model),
        "energy": Energy(model),
    }
    return {name: loaded(network, model, params[name]) for name, network in networks.items()}


def loaded(network: Any, model: Model, params: Params) -> nn.Module:
    """Load our parameters into a network of this module."""
    arrays = network.arrays(model, params)
    network.load_state_dict({key: torch.tensor(values) for key, values in arrays.items()})
    return network


def private_part(params: Params, names: Sequence[str]) -> dict[str, Any]:
    """The part of the inference network for private latents, renamed like the shared part."""
    return {
        name + ending: params[f"{name}_private{ending}"]
        for name in names
        for ending in ("", "_mean", "_scale")
    }


def images_first(batch: Mapping[str, Any]) -> Tensor:
    """Name → `[B, H, W, C]` as one `[M, B, C, H, W]`."""
    return torch.tensor(np.stack([np.asarray(x).transpose(0, 3, 1, 2) for x in batch.values()]))


def _under(name: str, arrays: Arrays) -> Arrays:
    return {f"{name}.{key}": values for key, values in arrays.items()}
