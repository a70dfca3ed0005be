"""Memory of the compiled update, as reported by XLA."""

from typing import Any

from experiments.benchmarks import workload
from experiments.benchmarks.measure import Options, Part, table


def measure(options: Options) -> Part:
    """Arguments, results and temporary buffers, in MiB."""
    shape = workload.SMALL if options.quick else workload.PAPER
    work = workload.build("paper_b", shape, quick=options.quick)
    analysis: Any = work.update.memory_analysis()
    sizes = {
        "arguments": analysis.argument_size_in_bytes,
        "results": analysis.output_size_in_bytes,
        "results in the arguments' place": analysis.alias_size_in_bytes,
        "temporary": analysis.temp_size_in_bytes,
    }
    mebibytes = {name: size / 2**20 for name, size in sizes.items()}
    mebibytes["peak"] = (
        mebibytes["arguments"]
        + mebibytes["results"]
        - mebibytes["results in the arguments' place"]
        + mebibytes["temporary"]
    )
    return Part(mebibytes, table([list(mebibytes.values())], [f"{n}, MiB" for n in mebibytes]))
