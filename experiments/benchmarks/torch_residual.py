"""The networks of `mmebm_jax.networks.image_residual` in PyTorch, with parameter conversion."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmarks.torch_layers import Arrays, Maps, Params, plain, to_flat
from mmebm_jax.networks.image_residual import (
    BRANCH,
    SLOPE,
    ResidualImageDecoder,
    ResidualImageExpert,
    ResidualImageTrunk,
    num_halvings,
    widths,
)


def leaky_relu(values: Tensor) -> Tensor:
    """Leaky ReLU with the published slope."""
    return functional.leaky_relu(values, SLOPE)


def _under(name: str, arrays: Arrays) -> Arrays:
    return {f"{name}.{key}": values for key, values in arrays.items()}


class Block(nn.Module):
    """The residual block on maps `[B, C, H, W]`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: Callable[[Tensor], Tensor] = leaky_relu,
        branch: float = BRANCH,
    ) -> None:
        super().__init__()
        inner = min(inputs, outputs)
        self.activation, self.branch = activation, branch
        self.first = nn.Conv2d(inputs, inner, 3, padding=1)
        self.second = nn.Conv2d(inner, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, maps: Tensor) -> Tensor:
        """Apply the block."""
        inner = self.second(self.activation(self.first(self.activation(maps))))
        kept = maps if self.shortcut is None else self.shortcut(maps)
        return kept.add(inner, alpha=self.branch)

    def arrays(self, params: Params) -> Arrays:
        """Convert our parameters to this network's."""
        arrays = plain("first", params["Conv_0"]) | plain("second", params["Conv_1"])
        return arrays | (plain("shortcut", params["Conv_2"]) if "Conv_2" in params else {})


class Expert(nn.Module):
    """Image `[B, C, H, W]` → features `[B, F]`."""

    def __init__(self, network: ResidualImageExpert, shape: Maps) -> None:
        super().__init__()
        levels = num_halvings(*shape[:2])
        sizes = widths(network.width, levels)
        self.image = nn.Conv2d(shape[2], network.width, 3, padding=1)
        pairs = zip([network.width, *sizes], sizes, strict=False)
        self.blocks = nn.ModuleList(Block(*pair) for pair in pairs)
        self.maps = (shape[0] >> levels, shape[1] >> levels, sizes[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Encode a batch of images."""
        maps = self.image(image)
        for index, block in enumerate(self.blocks):
            maps = block(functional.avg_pool2d(maps, 2) if index else maps)
        return maps.flatten(1)

    def arrays(self, params: Params) -> Arrays:
        """Convert our parameters to this network's."""
        arrays = plain("image", params["Conv_0"])
        for index, block in enumerate(self.blocks):
            own = block.arrays(params[f"ResidualBlock_{index}"])
            arrays |= _under(f"blocks.{index}", own)
        return arrays

    @property
    def features(self) -> list[Maps]:
        """Shapes of the maps that its features are flattened from."""
        return [self.maps]


class Decoder(nn.Module):
    """Latents `[B, Z]` → the likelihood's mean `[B, C, H, W]`."""

    def __init__(self, network: ResidualImageDecoder, num_latents: int) -> None:
        super().__init__()
        height, breadth, channels = network.shape
        levels = num_halvings(height, breadth)
        sizes = widths(network.width, levels)[::-1]
        self.maps = (height >> levels, breadth >> levels, sizes[0])
        self.dense = nn.Linear(num_latents, int(np.prod(self.maps)))
        pairs = zip(sizes, [*sizes[1:], network.width], strict=True)
        self.blocks = nn.ModuleList(Block(*pair) for pair in pairs)
        self.image = nn.Conv2d(network.width, channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode a batch of latents."""
        height, breadth, channels = self.maps
        maps = self.dense(latents).unflatten(1, (channels, height, breadth))
        for block in self.blocks[:-1]:
            maps = functional.interpolate(block(maps), scale_factor=2.0)
        return self.image(leaky_relu(self.blocks[-1](maps)))

    def arrays(self, params: Params) -> Arrays:
        """Convert our parameters to this network's."""
        arrays = to_flat("dense", params["Dense_0"], self.maps) | plain("image", params["Conv_0"])
        for index, block in enumerate(self.blocks):
            own = block.arrays(params[f"ResidualBlock_{index}"])
            arrays |= _under(f"blocks.{index}", own)
        return arrays


class Trunk(nn.Module):
    """Image `[B, C, H, W]` → features `[B, F]` of the energy."""

    def __init__(self, network: ResidualImageTrunk, shape: Maps) -> None:
        super().__init__()
        levels = num_halvings(*shape[:2])
        sizes = widths(network.width, levels)
        self.image = nn.Conv2d(shape[2], network.width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(*pair, functional.silu, 1.0) for pair in pairwise(sizes))
        self.maps = (shape[0] >> levels, shape[1] >> levels, sizes[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Extract a batch's features."""
        maps = self.image(image)
        for block in self.blocks:
            maps = block(functional.avg_pool2d(maps, 2))
        return functional.silu(maps).flatten(1)

    arrays = Expert.arrays

    @property
    def features(self) -> list[Maps]:
        """Shapes of the maps that its features are flattened from."""
        return [self.maps]
