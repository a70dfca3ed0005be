"""The networks of `mmebm_jax.networks.image` in PyTorch, with conversion of their parameters."""

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmarks.torch_layers import (
    Arrays,
    Maps,
    Params,
    from_flat,
    plain,
    shuffled,
    to_flat,
    unshuffled,
)
from mmebm_jax.networks.image import ImageDecoder, ImageExpert, ImageTrunk


class Expert(nn.Module):
    """Image `[B, C, H, W]` → features `[B, hidden]`."""

    def __init__(self, network: ImageExpert, shape: Maps) -> None:
        super().__init__()
        height, breadth, channels = shape
        width = network.width
        self.size = network.hidden
        self.first = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.second = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.dense = nn.Linear(2 * width * (height // 4) * (breadth // 4), self.size)
        self.maps = (height // 4, breadth // 4, 2 * width)

    def forward(self, image: Tensor) -> Tensor:
        """Encode a batch of images."""
        maps = functional.silu(self.first(functional.pixel_unshuffle(image, 2)))
        maps = functional.silu(self.second(functional.pixel_unshuffle(maps, 2)))
        return functional.silu(self.dense(maps.flatten(1)))

    def arrays(self, params: Params) -> Arrays:
        """Convert our parameters to this network's."""
        dense = from_flat("dense", params["Dense_0"], [self.maps])
        return (
            unshuffled("first", params["Conv_0"]) | unshuffled("second", params["Conv_1"]) | dense
        )

    @property
    def features(self) -> list[Maps]:
        """Shapes of the maps that its features are flattened from; a dense layer has none."""
        return [(1, 1, self.size)]


class Decoder(nn.Module):
    """Latents `[B, Z]` → the likelihood's mean `[B, C, H, W]`."""

    def __init__(self, network: ImageDecoder, num_latents: int) -> None:
        super().__init__()
        height, breadth, channels = network.shape
        self.maps = (network.width, height // 2, breadth // 2)
        self.first = nn.Linear(num_latents, network.hidden)
        self.second = nn.Linear(network.hidden, int(np.prod(self.maps)))
        self.last = nn.Conv2d(network.width, 4 * channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode a batch of latents."""
        hidden = functional.silu(self.first(latents))
        maps = functional.silu(self.second(hidden)).unflatten(1, self.maps)
        return functional.pixel_shuffle(self.last(maps), 2)

    def arrays(self, params: Params) -> Arrays:
        """Convert our parameters to this network's."""
        channels, height, breadth = self.maps
        return (
            plain("first", params["Dense_0"])
            | to_flat("second", params["Dense_1"], (height, breadth, channels))
            | shuffled("last", params["Conv_0"])
        )


class Trunk(nn.Module):
    """Image `[B, C, H, W]` → features `[B, F]` of the energy."""

    def __init__(self, network: ImageTrunk, shape: Maps) -> None:
        super().__init__()
        height, breadth, channels = shape
        self.first = nn.Conv2d(4 * channels, 2 * network.width, 3, padding=1)
        self.second = nn.Conv2d(2 * network.width, 4 * network.width, 3, padding=1)
        height, breadth = height // 2, breadth // 2
        for _ in range(2):
            if height % 2 == 0 and breadth % 2 == 0:
                height, breadth = height // 2, breadth // 2
        self.maps = (height, breadth, 4 * network.width)

    def forward(self, image: Tensor) -> Tensor:
        """Extract a batch's features."""
        maps = functional.pixel_unshuffle(image, 2)
        for layer in (self.first, self.second):
            maps = functional.silu(layer(maps))
            if maps.shape[2] % 2 == 0 and maps.shape[3] % 2 == 0:
                maps = functional.avg_pool2d(maps, 2)
        return maps.flatten(1)

    def arrays(self, params: Params) -> Arrays:
        """Convert our parameters to this network's."""
        return unshuffled("first", params["Conv_0"]) | plain("second", params["Conv_1"])

    @property
    def features(self) -> list[Maps]:
        """Shapes of the maps that its features are flattened from."""
        return [self.maps]
