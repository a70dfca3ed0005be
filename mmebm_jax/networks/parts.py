"""How a joint network is assembled from one sub-network per modality."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn


class Sizes(NamedTuple):
    """Sizes that the networks of all kinds use."""

    width: int  # channels at an image's finest scale
    hidden: int  # units of dense layers


@dataclasses.dataclass(frozen=True)
class Part:
    """A modality's sub-network, unbound: `placed` makes it a layer of the joint network."""

    name: str
    network: nn.Module


def placed(part: Part, *, name: str | None = None, rematerialise: bool = False) -> Any:
    """Make the part a layer of the module whose `nn.compact` method calls this.

    Args:
      part: the sub-network.
      name: name of the layer; the modality's by default.
      rematerialise: recompute its activations in the backward pass, to save memory.
    """
    kind = type(part.network)
    fields = {
        field.name: getattr(part.network, field.name)
        for field in dataclasses.fields(kind)
        if field.name not in ("parent", "name")
    }
    return (nn.remat(kind) if rematerialise else kind)(**fields, name=name or part.name)
