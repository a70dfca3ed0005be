"""Replacements for standard operations on a CPU: the same results, faster.

The rest of the library calls the names below; in each file, `on_cpu` names the operation replaced.
`docs/speed.md` gives the speed-up of each.
"""

from mmebm_jax.cpu.convolution import compiler_options, conv_general_dilated
from mmebm_jax.cpu.dense import dot_general
from mmebm_jax.cpu.noise import normal
from mmebm_jax.cpu.norm import gradient_norm
from mmebm_jax.cpu.packing import scan

__all__ = [
    "compiler_options",
    "conv_general_dilated",
    "dot_general",
    "gradient_norm",
    "normal",
    "scan",
]
