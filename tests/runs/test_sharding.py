"""Messages about the devices, and about an accelerator that is not found."""

import jax
import pytest

from mmebm_jax.runs import sharding


@pytest.fixture
def mesh():
    return sharding.data_mesh(jax.devices("cpu")[:1])


def test_devices_are_counted_by_kind(mesh):
    assert sharding.describe(mesh) == "1 x cpu, 1 process"


@pytest.mark.parametrize(
    ("platforms", "installed", "named"),
    [
        ("", (), ""),
        ("cpu", ("jax_cuda12_plugin",), ""),
        ("cuda,cpu", (), "JAX_PLATFORMS=cuda,cpu, but JAX found a CPU alone: check the driver"),
        ("", ("jax_cuda12_plugin",), "jax_cuda12_plugin is installed, but JAX found a CPU alone"),
        ("", ("libtpu",), "libtpu is installed, but JAX found a CPU alone: check that this is a"),
    ],
)
def test_a_cpu_in_place_of_an_accelerator_is_said(mesh, monkeypatch, platforms, installed, named):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(
        sharding.importlib.util, "find_spec", lambda name: name if name in installed else None
    )
    line = sharding.lacking_accelerator(mesh)
    assert named in line
    assert bool(line) == bool(named)
    assert "\n" not in line
