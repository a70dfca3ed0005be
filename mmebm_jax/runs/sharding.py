"""Data parallelism: one mesh axis over all devices, batches split along it, the rest replicated.

`training.feed` brings batches from the host to these devices.
"""

import importlib.util
import os
from collections import Counter
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
# Name in JAX_PLATFORMS, modules of JAX's plugins, and the hint for a user.
ACCELERATORS = (
    ("cuda", ("jax_cuda13_plugin", "jax_cuda12_plugin"), "check the driver with nvidia-smi"),
    ("tpu", ("libtpu",), "check that this is a TPU VM"),
)


def data_mesh(devices: list[Any] | None = None) -> Mesh:
    """A one-axis mesh over `devices`, by default all devices of all processes."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def describe(mesh: Mesh) -> str:
    """The devices of a mesh for the log, such as "8 x NVIDIA H100, 1 process"."""
    kinds = Counter(device.device_kind for device in mesh.devices.flat)
    count = jax.process_count()
    names = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
    return f"{names}, {count} process{'es' if count > 1 else ''}"


def lacking_accelerator(mesh: Mesh) -> str:
    """A warning if an accelerator was requested but only CPUs were found; otherwise empty.

    A request is a value of `JAX_PLATFORMS`, or an installed JAX plugin for an accelerator.
    """
    if any(device.platform != "cpu" for device in mesh.devices.flat):
        return ""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked == "cpu":  # CPUs were requested.
        return ""
    for word, plugins, mend in ACCELERATORS:
        installed = next((name for name in plugins if importlib.util.find_spec(name)), "")
        if word in asked.lower() or installed:
            by = f"JAX_PLATFORMS={asked}" if word in asked.lower() else f"{installed} is installed"
            return f"{by}, but JAX found a CPU alone: {mend}, or set JAX_PLATFORMS=cpu."
    return ""


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The sharding with the leading axis divided among the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Replicate a pytree that every process holds to all devices."""
    if jax.process_count() == 1:
        return jax.device_put(tree, replicated(mesh))
    # Only a computation that all processes run can place arrays on other processes' devices.
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def local(tree: Any) -> Any:
    """This process's copy of a replicated pytree, for work that it does on its own."""
    return jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_data(0), tree
    )


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Check that the global batch size is divisible by the number of devices.

    Raises:
      ValueError: it is not; the message has both numbers.
    """
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size {batch_size} is not divisible by the {mesh.size} devices: change it to a "
            f"multiple of {mesh.size}."
        )
