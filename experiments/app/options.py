"""The app's flags, shared with `experiments.main`, and its entry point."""

import importlib.util

from absl import flags

from experiments import command_line

HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address that the app listens on; by default this machine alone."
)
PORT = flags.DEFINE_integer("port", 7860, "Port of the app.", 1, 65535)
NEEDED = "the app needs Gradio: pip install 'mmebm_jax[app]'."


def can_serve() -> bool:
    """Whether Gradio is installed."""
    return importlib.util.find_spec("gradio") is not None


def serve() -> None:
    """Serve the app of `--workdir` until interrupted."""
    if command_line.WORKDIR.value is None:
        command_line.fail("--workdir is missing: name the folder of a run or an export.")
    if not can_serve():
        command_line.fail(NEEDED)
    from experiments.app import page

    page.serve(command_line.WORKDIR.value, HOST.value, PORT.value)
