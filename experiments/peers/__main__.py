"""Compare this library with MultiVae.

    python -m experiments.peers bounds

This prints our bounds and theirs for identical weights, data and latents, with the relative
difference; the exit status is 1 if any difference is above 1e-4. With --results the rows are
written to that file, from which docs/methods.md is rendered. MultiVae is installed by the extra
`peers`.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from experiments import results

_RESULTS = flags.DEFINE_string("results", None, "File of rows, as docs/results/peers_bounds.json.")
PARTS = ("bounds",)


def main(arguments: Sequence[str]) -> None:
    """Run the named comparison."""
    if len(arguments) != 2 or arguments[1] not in PARTS:
        raise app.UsageError(f"name one of {', '.join(PARTS)}.")
    from experiments.peers import bounds

    try:
        found = bounds.compare()
    except ValueError as error:
        sys.exit(str(error))
    print(bounds.table(found))
    if _RESULTS.value:
        results.write(_RESULTS.value, "python -m experiments.peers bounds", bounds.rows(found))
    if any(not compared.difference <= bounds.TOLERANCE for compared in found):
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
