"""The networks of PolyMNIST in PyTorch, channels first, and how our parameters become theirs.

Channels first is the format that PyTorch runs these small images fastest in on a CPU; every kernel
that meets a flattened or rearranged image is therefore permuted on the way.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmebm_jax.method.model import Model
from mmebm_jax.networks.joint import SMALLEST_SCALE
from mmebm_jax.networks.parts import Part

Params = Mapping[str, Any]


class Expert(nn.Module):
    """Image `[B, C, H, W]` → mean and scale `[B, Z]` of the latent."""

    def __init__(self, shape: tuple[int, ...], width: int, hidden: int, num_latents: int) -> None:
        super().__init__()
        height, breadth, channels = shape
        self.first = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.second = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.dense = nn.Linear(2 * width * (height // 4) * (breadth // 4), hidden)
        self.mean = nn.Linear(hidden, num_latents)
        self.scale = nn.Linear(hidden, num_latents)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch of images."""
        maps = functional.silu(self.first(functional.pixel_unshuffle(image, 2)))
        maps = functional.silu(self.second(functional.pixel_unshuffle(maps, 2)))
        features = functional.silu(self.dense(maps.flatten(1)))
        return self.mean(features), functional.softplus(self.scale(features)) + SMALLEST_SCALE


class Decoder(nn.Module):
    """Latents `[B, Z]` → the likelihood's mean `[B, C, H, W]`."""

    def __init__(self, shape: tuple[int, ...], width: int, hidden: int, num_latents: int) -> None:
        super().__init__()
        height, breadth, channels = shape
        self.maps = (width, height // 2, breadth // 2)
        self.first = nn.Linear(num_latents, hidden)
        self.second = nn.Linear(hidden, int(np.prod(self.maps)))
        self.last = nn.Conv2d(width, 4 * channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode a batch of latents."""
        hidden = functional.silu(self.first(latents))
        maps = functional.silu(self.second(hidden)).unflatten(1, self.maps)
        return functional.pixel_shuffle(self.last(maps), 2)


class Trunk(nn.Module):
    """Image `[B, C, H, W]` → features `[B, F]` of the energy."""

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(4 * shape[2], 2 * width, 3, padding=1)
        self.second = nn.Conv2d(2 * width, 4 * width, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Extract a batch's features."""
        maps = functional.pixel_unshuffle(image, 2)
        for layer in (self.first, self.second):
            maps = functional.silu(layer(maps))
            if maps.shape[2] % 2 == 0 and maps.shape[3] % 2 == 0:
                maps = functional.avg_pool2d(maps, 2)
        return maps.flatten(1)


def of(parts: tuple[Part, ...]) -> Any:
    """One of the sub-networks, which are alike, for its sizes."""
    return parts[0].network


class Inference(nn.Module):
    """Images `[M, B, C, H, W]` → experts' means and scales, each `[M, B, Z]`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        sizes = (
            of(model.inference.experts).width,
            of(model.inference.experts).hidden,
            model.num_latents,
        )
        self.experts = nn.ModuleList(Expert(m.shape, *sizes) for m in model.modalities)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode every modality."""
        each = [expert(image) for expert, image in zip(self.experts, images, strict=True)]
        return torch.stack([mean for mean, _ in each]), torch.stack([scale for _, scale in each])


class Generator(nn.Module):
    """Latents `[B, Z]` → images `[M, B, C, H, W]`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        sizes = (
            of(model.generator.decoders).width,
            of(model.generator.decoders).hidden,
            model.num_latents,
        )
        self.decoders = nn.ModuleList(Decoder(m.shape, *sizes) for m in model.modalities)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode every modality."""
        return torch.stack([decoder(latents) for decoder in self.decoders])


class Energy(nn.Module):
    """Images `[M, B, C, H, W]` → energies `[B]`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        width, hidden = of(model.energy.trunks).width, model.energy.hidden
        self.trunks = nn.ModuleList(Trunk(m.shape, width) for m in model.modalities)
        with torch.no_grad():
            empty = [torch.zeros(1, m.shape[2], *m.shape[:2]) for m in model.modalities]
            size = sum(trunk(e).numel() for trunk, e in zip(self.trunks, empty, strict=True))
        self.first = nn.Linear(size, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Energies of a batch, over all modalities jointly."""
        features = [trunk(image) for trunk, image in zip(self.trunks, images, strict=True)]
        joint = functional.silu(self.first(torch.cat(features, dim=1)))
        return self.last(functional.silu(self.second(joint)))[:, 0]


def converted(model: Model, params: Mapping[str, Params]) -> dict[str, nn.Module]:
    """The three networks holding our parameters.

    Args:
      model: a model of images alone, without private latents.
      params: ours, by network.

    Returns:
      "inference", "generator" and "energy".
    """
    networks: dict[str, tuple[nn.Module, dict[str, np.ndarray]]] = {
        "inference": (Inference(model), _inference(model, params["inference"])),
        "generator": (Generator(model), _generator(model, params["generator"])),
        "energy": (Energy(model), _energy(model, params["energy"])),
    }
    for network, arrays in networks.values():
        network.load_state_dict({name: torch.tensor(values) for name, values in arrays.items()})
    return {name: network for name, (network, _) in networks.items()}


def images_first(batch: Mapping[str, Any]) -> Tensor:
    """Name → `[B, H, W, C]` as one `[M, B, C, H, W]`."""
    return torch.tensor(np.stack([np.asarray(x).transpose(0, 3, 1, 2) for x in batch.values()]))


def _layer(name: str, kernel: np.ndarray, bias: Any) -> dict[str, np.ndarray]:
    """A dense kernel `[I, O]` or a convolution's `[h, w, I, O]` in PyTorch's order of axes."""
    axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
    weight = np.ascontiguousarray(kernel.transpose(axes))
    return {f"{name}.weight": weight, f"{name}.bias": np.array(bias)}


def _plain(name: str, layer: Params) -> dict[str, np.ndarray]:
    return _layer(name, np.asarray(layer["kernel"]), layer["bias"])


def _unshuffled(name: str, layer: Params) -> dict[str, np.ndarray]:
    """A convolution whose input channels are (block, channel) here and (channel, block) there."""
    kernel = np.asarray(layer["kernel"])
    split = kernel.reshape(*kernel.shape[:2], 4, -1, kernel.shape[3])
    return _layer(name, split.swapaxes(2, 3).reshape(kernel.shape), layer["bias"])


def _flattened(name: str, layer: Params, maps: list[tuple[int, int, int]]) -> dict[str, np.ndarray]:
    """A dense layer on flattened maps `[H, W, C]`, which there are `[C, H, W]`."""
    kernel, rows, start = np.asarray(layer["kernel"]), [], 0
    for shape in maps:
        size = int(np.prod(shape))
        block = kernel[start : start + size].reshape(*shape, -1)
        rows.append(block.transpose(2, 0, 1, 3).reshape(size, -1))
        start += size
    return _layer(name, np.concatenate(rows), layer["bias"])


def _inference(model: Model, params: Params) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for index, modality in enumerate(model.modalities):
        name, prefix = modality.name, f"experts.{index}"
        quarter = (
            modality.shape[0] // 4,
            modality.shape[1] // 4,
            2 * of(model.inference.experts).width,
        )
        arrays |= _unshuffled(f"{prefix}.first", params[name]["Conv_0"])
        arrays |= _unshuffled(f"{prefix}.second", params[name]["Conv_1"])
        arrays |= _flattened(f"{prefix}.dense", params[name]["Dense_0"], [quarter])
        arrays |= _plain(f"{prefix}.mean", params[f"{name}_mean"])
        arrays |= _plain(f"{prefix}.scale", params[f"{name}_scale"])
    return arrays


def _generator(model: Model, params: Params) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for index, modality in enumerate(model.modalities):
        layers, prefix = params[modality.name], f"decoders.{index}"
        half = modality.shape[0] // 2, modality.shape[1] // 2, of(model.generator.decoders).width
        arrays |= _plain(f"{prefix}.first", layers["Dense_0"])
        columns = np.asarray(layers["Dense_1"]["kernel"]).reshape(-1, *half)
        bias = np.asarray(layers["Dense_1"]["bias"]).reshape(half).transpose(2, 0, 1).reshape(-1)
        kernel = columns.transpose(0, 3, 1, 2).reshape(len(columns), -1)
        arrays |= _layer(f"{prefix}.second", kernel, bias)
        kernel = np.asarray(layers["Conv_0"]["kernel"])
        split = kernel.reshape(*kernel.shape[:3], 4, -1).swapaxes(3, 4).reshape(kernel.shape)
        bias = np.asarray(layers["Conv_0"]["bias"]).reshape(4, -1).T.reshape(-1)
        arrays |= _layer(f"{prefix}.last", split, bias)
    return arrays


def _energy(model: Model, params: Params) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    maps = []
    for index, modality in enumerate(model.modalities):
        layers, prefix = params[modality.name], f"trunks.{index}"
        arrays |= _unshuffled(f"{prefix}.first", layers["Conv_0"])
        arrays |= _plain(f"{prefix}.second", layers["Conv_1"])
        height, width = modality.shape[0] // 2, modality.shape[1] // 2
        for _ in range(2):
            if height % 2 == 0 and width % 2 == 0:
                height, width = height // 2, width // 2
        maps.append((height, width, 4 * of(model.energy.trunks).width))
    arrays |= _flattened("first", params["joint_0"], maps)
    arrays |= _plain("second", params["joint_1"])
    return arrays | _plain("last", params["energy"])
