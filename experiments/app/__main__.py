"""Serve the app.

python -m experiments.app --workdir=runs/demo
python -m experiments.app --workdir=exports/digits --port=7861
"""

from experiments import command_line
from experiments.app import options


def main() -> None:
    """Serve until interrupted."""
    options.serve()


if __name__ == "__main__":
    command_line.run(main)
