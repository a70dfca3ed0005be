"""CPU-specific implementations of standard operations; `choice` says where a CPU is given which."""

from mmebm_jax.cpu.choice import (
    compiler_options,
    conv_general_dilated,
    dot_general,
    normal,
    scan,
)

__all__ = ["compiler_options", "conv_general_dilated", "dot_general", "normal", "scan"]
