"""MultiVae's models wrapped around our networks: the same weights, in PyTorch.

MultiVae's models need only its `data.datasets.base`; the package around that also imports loaders
for public data sets, which need torchvision. If torchvision cannot be loaded, as with some CPU
builds of PyTorch, that one `__init__` is skipped: the models and their base class are still
MultiVae's own.
"""

import importlib
import importlib.util
import os
import sys
import types
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmarks.torch_layers import Maps, Params, from_flat
from experiments.benchmarks.torch_networks import counterpart
from mmebm_jax.method.model import Model
from mmebm_jax.networks.joint import SMALLEST_SCALE

OF_DATA = "multivae.data.datasets"
INSTALL = (
    "MultiVae is not installed: pip install --no-deps multivae pythae, with cloudpickle, nltk, "
    "pandas and torchmetrics, in an environment that has this library and PyTorch."
)


def load() -> Any:
    """The module `multivae.models`, together with `multivae.data`.

    Raises:
      ValueError: MultiVae is not installed.
    """
    found = importlib.util.find_spec("multivae")
    if found is None or not found.submodule_search_locations:
        raise ValueError(INSTALL)
    try:
        return importlib.import_module("multivae.models")
    except (ImportError, RuntimeError):  # torchvision is absent, or was built for another PyTorch
        for name in [name for name in sys.modules if name.startswith("multivae")]:
            del sys.modules[name]
    package = types.ModuleType(OF_DATA)
    folder = os.path.join(found.submodule_search_locations[0], "data", "datasets")
    package.__path__ = [folder]
    sys.modules[OF_DATA] = package
    base = importlib.import_module(f"{OF_DATA}.base")
    for name in ("MultimodalBaseDataset", "IncompleteDataset", "DatasetOutput"):
        setattr(package, name, getattr(base, name))
    return importlib.import_module("multivae.models")


class Diagonal(nn.Module):
    """One of our experts: channels-first images → mean and log-variance."""

    def __init__(self, model: Model, params: Params, names: list[str], key: str) -> None:
        """Copy our weights.

        Args:
          model: our model, of images.
          params: parameters of our inference network.
          names: parts whose features are read, such as "m0" or "m0_private".
          key: name of the heads, such as "m0" or "joint".
        """
        super().__init__()
        by_name = {m.name: m for m in model.modalities}
        networks = {part.name: part.network for part in model.inference.experts}
        self.features = nn.ModuleList()
        maps: list[Maps] = []
        for name in names:
            modality = by_name[name.partition("_")[0]]
            height, width, channels = modality.shape
            own = counterpart(networks[modality.name], (height, width, channels))
            own.load_state_dict(_tensors(own.arrays(params[name])))
            self.features.append(own)
            maps += own.features
        size = sum(int(np.prod(shape)) for shape in maps)
        self.mean, self.scale = (nn.Linear(size, _width(params, key)) for _ in range(2))
        for head, part in ((self.mean, "mean"), (self.scale, "scale")):
            arrays = _tensors(from_flat("x", params[f"{key}_{part}"], maps))
            head.load_state_dict({name[2:]: value for name, value in arrays.items()})

    def forward(self, *images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, `[B, Z]` each."""
        pairs = zip(self.features, images, strict=True)
        features = torch.cat([network(image) for network, image in pairs], dim=1)
        scale = functional.softplus(self.scale(features)) + SMALLEST_SCALE
        return self.mean(features), 2.0 * scale.log()


def networks(model: Model, params: dict[str, Params]) -> dict[str, Any]:
    """MultiVae's `encoders`, `decoders` and `joint_encoder` (or None) with our weights."""
    theirs = importlib.import_module("multivae.models.nn.base_architectures")
    pythae = importlib.import_module("pythae.models.nn.base_architectures")
    output = importlib.import_module("pythae.models.base.base_utils").ModelOutput
    inference = params["inference"]

    class Encoder(theirs.BaseMultilatentEncoder):  # type: ignore[name-defined, misc]
        def __init__(self, name: str) -> None:
            super().__init__()
            self.latent_dim, self.style_dim = model.num_latents, model.num_private
            self.shared = Diagonal(model, inference, [name], name)
            own = f"{name}_private"
            self.own = Diagonal(model, inference, [own], own) if model.num_private else None

        def forward(self, x: Tensor) -> Any:
            mean, log_variance = self.shared(x)
            found = {"embedding": mean, "log_covariance": log_variance}
            if self.own is not None:
                mean, log_variance = self.own(x)
                found |= {"style_embedding": mean, "style_log_covariance": log_variance}
            return output(**found)

    class Decoder(pythae.BaseDecoder):  # type: ignore[name-defined, misc]
        def __init__(self, name: str, network: Any) -> None:
            super().__init__()
            self.latent_dim = model.num_latents + model.num_private
            self.network = counterpart(network, self.latent_dim)
            arrays = self.network.arrays(params["generator"][name])
            self.network.load_state_dict(_tensors(arrays))

        def forward(self, z: Tensor) -> Any:
            return output(reconstruction=self.network(z))

    class Joint(theirs.BaseJointEncoder):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.latent_dim = model.num_latents
            names = [f"{m.name}_joint" for m in model.modalities]
            self.network = Diagonal(model, inference, names, "joint")

        def forward(self, x: dict[str, Tensor]) -> Any:
            mean, log_variance = self.network(*(x[m.name] for m in model.modalities))
            return output(embedding=mean, log_covariance=log_variance)

    return {
        "encoders": {m.name: Encoder(m.name) for m in model.modalities},
        "decoders": {p.name: Decoder(p.name, p.network) for p in model.generator.decoders},
        "joint_encoder": Joint() if model.inference.has_joint else None,
    }


def _width(params: Params, key: str) -> int:
    return int(np.shape(params[f"{key}_mean"]["bias"])[0])


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) for name, values in arrays.items()}
