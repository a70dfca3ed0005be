"""Which implementation is called, by backend."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmebm_jax import cpu
from mmebm_jax.cpu import convolution, dense, noise, norm, packing

OPERATIONS = {
    "conv_general_dilated": (convolution.scan_safe_convolution, jax.lax.conv_general_dilated),
    "dot_general": (dense.wide_dot_general, jax.lax.dot_general),
    "normal": (noise.written_out_normal, jax.random.normal),
    "gradient_norm": (norm.apart_from_the_rest, optax.tree.norm),
    "scan": (packing.packed_scan, jax.lax.scan),
}
DIMENSIONS = (((1,), (0,)), ((), ()))
CARRY = jnp.ones([2, 3, 2])
# Arguments accepted by both versions; each is traced anew, since JAX caches traces by function.
CALLS = {
    "conv_general_dilated": lambda f: jax.make_jaxpr(
        lambda x, k: f(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )(jnp.ones([2, 4, 4, 3]), jnp.ones([3, 3, 3, 2])),
    "dot_general": lambda f: jax.make_jaxpr(lambda x, k: f(x, k, DIMENSIONS))(
        jnp.ones([2, 3]), jnp.ones([3, 4])
    ),
    "normal": lambda f: jax.make_jaxpr(lambda key: f(key, (4, 2), jnp.float32))(jax.random.key(0)),
    "gradient_norm": lambda f: jax.make_jaxpr(lambda x: f({"a": x}))(jnp.ones([2, 3])),
    "scan": lambda f: jax.make_jaxpr(
        lambda carry: f(
            lambda c, x: ({n: v + x for n, v in c.items()}, None), carry, jnp.arange(3.0)
        )
    )({"a": CARRY, "b": CARRY}),
}


def program(name, function):
    return str(CALLS[name](function))


def test_every_choice_is_listed_here():
    public = {name for name, value in vars(cpu).items() if hasattr(value, "__wrapped__")}
    assert public == set(OPERATIONS) == set(CALLS)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_cpu_gets_our_operation_and_every_other_backend_the_standard_one(
    monkeypatch, name, backend
):
    ours, standard = (program(name, function) for function in OPERATIONS[name])
    assert ours != standard
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert program(name, getattr(cpu, name)) == (ours if backend == "cpu" else standard)


def test_the_choice_is_made_at_each_trace(monkeypatch):
    programs = []
    for backend in ("gpu", "cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        programs.append(program("normal", cpu.normal))
    assert programs[0] == programs[2] != programs[1]


def test_compiler_options_are_the_cpus_alone(monkeypatch):
    options = {"an_option": "1"}
    monkeypatch.setattr(convolution, "known_options", lambda: options)
    for backend, expected in (("cpu", options), ("gpu", {}), ("tpu", {})):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert cpu.compiler_options() == expected


def test_both_versions_give_the_same_numbers():
    key = jax.random.key(3)
    np.testing.assert_array_equal(cpu.normal(key, (4, 2)), jax.random.normal(key, (4, 2)))
