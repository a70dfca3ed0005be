"""Standard normal noise for chains: the numbers of `jax.random.normal`, faster on a CPU.

On a CPU, JAX runs threefry's rounds as a loop, which compiles faster but writes the state to memory
after every four rounds. Unrolled, the rounds and what follows are one pass over the numbers.
"""

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import random as extended_random

from mmebm_jax.cpu.by_backend import on_cpu

# Threefry-2x32 with 20 rounds: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def written_out_normal(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> jax.Array:
    """Draw from N(0, 1): the numbers of `jax.random.normal`, to the last bit.

    This holds while JAX's threefry is partitionable, which is the default. Other kinds of keys and
    types other than float32 are left to JAX. Numbers are drawn as rows `[B, N]`, since a short last
    axis would keep a CPU from working on several numbers at once.
    """
    if dtype == jnp.float32 and jax.random.key_impl(key) == "threefry2x32":
        key = jax.random.wrap_key_data(jax.random.key_data(key), impl=_WRITTEN_OUT)
    as_rows = (shape[0], prod(shape[1:])) if shape else shape
    return jax.random.normal(key, as_rows, dtype).reshape(shape)


def _bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """Return random uint32 from the two words of a key: each number's index, encrypted."""
    if bit_width != 32:
        raise ValueError(f"Noise of {bit_width} bits: draw it with jax.random.")
    words = key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(PARITY)
    left = jnp.broadcast_to(words[0], shape)
    right = words[1] + jax.lax.iota(jnp.uint32, prod(shape)).reshape(shape)
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            left = left + right
            right = left ^ (right << rotation | right >> (32 - rotation))
        left = left + words[(group + 1) % 3]
        right = right + words[(group + 2) % 3] + jnp.uint32(group + 1)
    return left ^ right


def _not_needed(*_: Any) -> Any:
    raise NotImplementedError("Keys are made, split and folded by JAX's own implementation.")


_WRITTEN_OUT = extended_random.define_prng_impl(
    key_shape=(2,),
    seed=_not_needed,
    split=_not_needed,
    random_bits=_bits,
    fold_in=_not_needed,
    name="threefry2x32_written_out",
    tag="fryw",
)


normal = on_cpu(written_out_normal, jax.random.normal)
"""`jax.random.normal(key, shape, dtype)`, the same numbers to the last bit."""
