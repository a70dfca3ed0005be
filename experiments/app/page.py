"""The Gradio page and its server; `answers` produces what the page shows."""

import os
import socket
from collections.abc import Callable
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experiments.app import answers, given, subject, views
from experiments.app.subject import MOST_DRAWS, Subject
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.storage.validation import brief

NUM_DRAWS = 4
# Whatever Gradio would add, the page loads resources from this server only.
POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    b"worker-src 'self' blob:; frame-ancestors 'none'; form-action 'none'"
)
ASK = "<p>Press Sample.</p>"


class OwnSourcesOnly:
    """Middleware that tells browsers to load nothing from other servers."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap another server."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the wrapped server does, with the policy added; see ASGI."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"content-security-policy", POLICY)]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, with_policy)


def serve(path: str, host: str, port: int) -> None:
    """Serve the app for a model until interrupted.

    Args:
      path: a run, an export or an address on the Hugging Face Hub.
      host: address to listen on.
      port: port to listen on.

    Raises:
      ValueError: the port is in use, or the host is not an address of this machine.
      FileNotFoundError, ConnectionError: see `subject.open_subject`.
    """
    check_port(host, port)
    # Otherwise Gradio would report every start to its makers and ask them for its newest version.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page = build(subject.open_subject(path))
    print(f"the app is at http://{host}:{port} (Ctrl+C ends it).", flush=True)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        css=views.css(),
        max_file_size=given.MOST_FILE_BYTES,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(OwnSourcesOnly)]},
    )


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be used, before a model is loaded.

    Raises:
      ValueError: the port is in use, or listening on it is not permitted.
    """
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        reason = brief(error.strerror or str(error))
        raise ValueError(
            f"{host}:{port} cannot be listened on ({reason}): choose another --port or --host."
        ) from error


def build(looked_at: Subject) -> gr.Blocks:
    """Build the page for a model."""
    names = [m.name for m in looked_at.sampler.modalities]
    count = len(looked_at.examples[names[0]])
    with gr.Blocks(
        title=f"mmebm_jax: {looked_at.name}", analytics_enabled=False, delete_cache=(600, 600)
    ) as page:
        gr.HTML(views.head(looked_at))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                example = gr.Slider(1, count, 1, step=1, label="Example", elem_id="example")
                observed = gr.CheckboxGroup(names, value=names[:1], label="Observed modalities")
                with gr.Accordion("Your own in place of the example's", open=False):
                    own = [_own(m, looked_at) for m in looked_at.sampler.modalities]
                sliders = _sliders(looked_at)
                button = gr.Button("Sample", variant="primary", elem_id="sample")
            with gr.Column(scale=3, min_width=320):
                shown = _shown()
                which, measure, exchanged = _exchange(names)
        asked = [example, observed, *sliders, *own]
        num_sliders = len(sliders)

        def sample(example: Any, observed: Any, *rest: Any) -> tuple[str, str]:
            controls, own = rest[:num_sliders], rest[num_sliders:]
            return answers.sample(looked_at, example, observed, controls, own)

        # Slider moves made during an answer are answered after it, and only the last one is.
        shared: dict[str, Any] = {"concurrency_id": "model", "api_visibility": "private"}
        for event in (button.click, example.release, *(s.release for s in sliders)):
            event(told(sample), asked, shown, trigger_mode="always_last", **shared)
        measure.click(
            told(lambda name: answers.exchange(looked_at, name)), which, exchanged, **shared
        )
    return page


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that errors about its input are shown in a message on the page."""

    def answer(*values: Any) -> Any:
        try:
            return function(*values)
        except (ValueError, TypeError, OSError, FloatingPointError) as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error

    return answer


def _sliders(looked_at: Subject) -> list[gr.Slider]:
    """Sliders for the numbers of `Controls`, in the same order."""
    settings, most = looked_at.sampler.settings, answers.limits(looked_at.sampler)
    configured = settings.chains.data.num_steps if settings.data_energy else 0
    return [
        gr.Slider(1, MOST_DRAWS, NUM_DRAWS, step=1, label="Draws", elem_id="num_draws"),
        gr.Slider(
            0,
            most.posterior_steps,
            min(settings.conditional_steps, most.posterior_steps),
            step=1,
            label="Posterior steps",
            info="of the chain over latents; 0 draws from the inference model",
            elem_id="posterior_steps",
        ),
        gr.Slider(
            0,
            max(1, most.refinement_steps),
            min(configured, most.refinement_steps),
            step=1,
            label="Refinement steps",
            info=f"of the chain over data; the configuration has {configured}",
            interactive=most.refinement_steps > 0,
            elem_id="refinement_steps",
        ),
        gr.Slider(
            0,
            answers.HOTTEST,
            1,
            step=0.25,
            label="Temperature",
            info="of both chains, times that of training",
            elem_id="temperature",
        ),
        gr.Slider(0, 99, 0, step=1, label="Seed", elem_id="seed"),
    ]


def _own(modality: Modality, looked_at: Subject) -> gr.components.Component:
    """An input for the user's own example of a modality."""
    label = f"{modality.name}: {given.hint(modality, looked_at.alphabet)}"
    element = f"own_{modality.name}"
    if modality.kind == "image":
        endings = list(given.ENDINGS)
        return gr.File(label=label, file_types=endings, type="binary", elem_id=element)
    return gr.Textbox(label=label, max_lines=1, max_length=given.MOST_CHARACTERS, elem_id=element)


def _shown() -> list[gr.HTML]:
    with gr.Tab("Draws"):
        draws = gr.HTML(ASK, elem_id="draws")
    with gr.Tab("Chain"):
        chain = gr.HTML(ASK, elem_id="chain")
    return [draws, chain]


def _exchange(names: list[str]) -> tuple[gr.Dropdown, gr.Button, gr.HTML]:
    with gr.Tab("Energies"):
        which = gr.Dropdown(names, value=names[0], label="Exchanged modality")
        measure = gr.Button("Measure", elem_id="measure")
        exchanged = gr.HTML(elem_id="exchange")
    return which, measure, exchanged
