"""What the app computes and how it presents it; `test_app_page.py` opens it in a browser."""

import base64
import io
import json
import shutil
import socket

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.app import answers, draws, given, subject, views
from experiments.app import options as app_options
from experiments.app.draws import Controls
from experiments.app.subject import Subject
from mmebm_jax.distributions.base_prior import standard
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.networks import Chains
from mmebm_jax.method.sampling import SamplerSettings
from mmebm_jax.method.train_state import Weights
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.runs import exports
from mmebm_jax.runs.sampler import Sampler
from tests.commands import assert_one_line, run_here
from tests.test_structure import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")
OLD = ROOT / "tests" / "runs" / "old_exports" / "format1"
SETTINGS = SamplerSettings(
    chains=Chains(
        posterior=Chain(3, 0.1, temperature=0.5),
        prior=Chain(0, 0.2),
        data=Chain(4, 0.4, temperature=1e-3),
    ),
    prior_energy=False,
    data_energy=True,
)
LETTERS = "abc<"
WORDS = ("<pad>", "<eos>", "<unk>", "bird", "red")


@pytest.fixture(scope="module")
def looked_at(tiny_model):
    """A model of a picture and a text with untrained weights, and four examples."""
    weights = Weights(jax.jit(tiny_model.init)(jax.random.key(0)), standard(2, 3))
    sampler = Sampler(tiny_model, weights, SETTINGS)
    random = np.random.default_rng(0)
    examples = sampler.as_batch(
        {
            "picture": random.integers(256, size=(4, 8, 8, 1)).astype(np.uint8),
            "text": random.integers(4, size=(4, 3)).astype(np.int32),
        }
    )
    return Subject("<i>model", sampler, LETTERS, examples, "")


def one(looked_at, name):
    return {name: looked_at.examples[name][:1]}


# --- computation --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "picture", "text"])
@pytest.mark.parametrize("posterior_steps", [0, 2])
def test_draws_are_those_of_the_sampler(looked_at, name, posterior_steps):
    observed = one(looked_at, name) if name else {}
    controls = Controls(3, posterior_steps, 4, seed=7)
    found = draws.draw(looked_at.sampler, observed, controls)
    sampler = draws.controlled(looked_at.sampler, controls)
    wanted = sampler.sample(jax.random.key(7), 3, observed or None)
    for key, values in wanted.items():
        np.testing.assert_array_equal(found.refined[key], values[0] if name else values)
    assert len(found.posterior_energies) == (posterior_steps if name else 0)
    assert set(found.trajectory) == {"picture", "text"} - {name}
    for key, steps in found.trajectory.items():
        np.testing.assert_array_equal(steps[0], found.generated[key])
        np.testing.assert_array_equal(steps[-1], found.refined[key])
    for step, batch in ((0, found.generated), (-1, found.refined)):
        energies = sampler.energy(batch, check_values=False)
        np.testing.assert_allclose(found.energies[step], energies, rtol=1e-5)
    assert found.energies.shape == (5, 3)


def test_sliders_set_the_chains(looked_at):
    settings = draws.controlled(looked_at.sampler, Controls(1, 5, 6, temperature=2.0)).settings
    assert settings.chains.posterior == Chain(5, 0.1, temperature=1.0)
    assert settings.chains.data == Chain(6, 0.4, temperature=2e-3)
    assert settings.conditional_steps == 5
    assert settings.chains.prior == SETTINGS.chains.prior


def test_without_noise_a_chain_goes_down(looked_at):
    found = draws.draw(looked_at.sampler, {}, Controls(2, 0, 4, temperature=0.0))
    assert (np.diff(found.energies, axis=0) <= 0).all()


def test_nothing_is_refined_without_steps_or_energy(looked_at):
    for sampler, steps in (
        (looked_at.sampler, 0),
        (
            looked_at.sampler.with_weights(
                looked_at.sampler.weights, SETTINGS._replace(data_energy=False)
            ),
            4,
        ),
    ):
        found = draws.draw(sampler, {}, Controls(2, 0, steps))
        assert not found.refined
        assert found.energies.shape == (0, 2)
    with pytest.raises(ValueError, match="every modality is observed"):
        draws.draw(looked_at.sampler, looked_at.examples, Controls(1, 0, 0))


def test_energies_of_exchanged_modalities():
    examples = {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([10.0, 20.0, 30.0])}
    found = draws.exchanged_energies(lambda batch: batch["a"] + batch["b"], examples, "b")
    np.testing.assert_array_equal(found, [[11, 21, 31], [12, 22, 32], [13, 23, 33]])
    found = draws.exchanged_energies(lambda batch: batch["a"] + batch["b"], examples, "a")
    np.testing.assert_array_equal(found, [[11, 12, 13], [21, 22, 23], [31, 32, 33]])


def test_a_chain_is_as_long_as_memory_allows(looked_at, monkeypatch):
    assert subject.most_steps(looked_at.sampler, 4) == 20
    assert subject.most_steps(looked_at.sampler, 30) == 120
    assert subject.most_steps(looked_at.sampler, 300) == 400
    assert subject.most_steps(looked_at.sampler, 1000) == 1000
    bytes_of_a_step = 4 * (64 + 12) * subject.MOST_DRAWS
    monkeypatch.setattr(subject.pictures, "MOST_TRAJECTORY_BYTES", 7 * bytes_of_a_step)
    assert subject.most_steps(looked_at.sampler, 300) == 7


# --- user input ---------------------------------------------------------------------------------

PICTURE = Modality("photo", "image", (4, 8, 3), "gaussian")
TEXT = Modality("text", "text", (4, 5), "categorical")
VECTOR = Modality("sizes", "vector", (2,), "gaussian")
CATEGORY = Modality("colour", "category", (3,), "categorical")


def png(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_a_picture_of_the_size_is_taken_pixel_for_pixel():
    pixels = np.random.default_rng(0).integers(256, size=(4, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(given.read(png(pixels), PICTURE, ""), pixels[None])
    # A wide picture is cropped to its middle.
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 2:10] = pixels
    np.testing.assert_array_equal(given.read(png(wide), PICTURE, ""), pixels[None])


def test_texts_numbers_and_categories_are_read():
    np.testing.assert_array_equal(given.read("Red bird", TEXT, WORDS), [[4, 3, 1, 0]])
    np.testing.assert_array_equal(given.read("cab", TEXT, "-abcd"), [[3, 1, 2, 0]])
    np.testing.assert_array_equal(given.read("4 0, 2 1", TEXT, ""), [[4, 0, 2, 1]])
    np.testing.assert_array_equal(given.read(".5, -1", VECTOR, ""), np.float32([[0.5, -1]]))
    np.testing.assert_array_equal(given.read("2", CATEGORY, ""), [2])
    for nothing in (None, "", "  "):
        assert given.read(nothing, TEXT, WORDS) is None


DAMAGED = png(np.random.default_rng(0).integers(256, size=(9, 9)).astype(np.uint8))[:-40]


@pytest.mark.parametrize(
    ("value", "modality", "alphabet", "said"),
    [
        (b"no picture", PICTURE, "", "photo: it is no picture: give PNG, JPEG"),
        (DAMAGED, PICTURE, "", "photo: the picture cannot be read"),
        (b"%PDF-1.4" + bytes(99), PICTURE, "", "photo: it is no picture"),
        (bytes(given.MOST_FILE_BYTES + 1), PICTURE, "", "photo: the file is larger than 4 MiB"),
        ("a path", PICTURE, "", "photo is 'a path': give a picture"),
        (b"x", TEXT, WORDS, "text is b'x': give at most 3 words"),
        ("a red bird", TEXT, WORDS, "text: 'a red bird' holds a word that this model never saw"),
        ("red red red red", TEXT, WORDS, "text: the text is too long: give at most 3 words"),
        ("cabbage", TEXT, "-abcd", "text: 'e' is none of '-abcd': leave it out"),
        ("cabab", TEXT, "-abcd", "text: it has 5 characters: give at most 4"),
        ("1 2 3", TEXT, "", "holds no such tokens: give 4 token numbers of 0 to 4"),
        ("1 2 3 5", TEXT, "", "holds no such tokens"),
        ("x" * 5000, TEXT, WORDS, "text is longer than 4096 characters"),
        ("1", VECTOR, "", "sizes: 1 numbers do not fit: give 2 numbers in"),
        ("1 nan", VECTOR, "", "sizes: 2 numbers do not fit"),
        ("1 2", VECTOR, "", "sizes: 2 numbers do not fit"),
        ("1 x", VECTOR, "", "sizes: '1 x' is no number"),
        ("3", CATEGORY, "", "colour: '3' is no category: give a number of 0 to 2"),
        ("0.5", CATEGORY, "", "colour: '0.5' is no category"),
        ("inf", CATEGORY, "", "colour: 'inf' is no category"),
    ],
    ids=lambda value: value[-40:] if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_one_line(value, modality, alphabet, said):
    with pytest.raises(ValueError) as caught:
        given.read(value, modality, alphabet)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(given, "MOST_PIXELS", 80)
    with pytest.raises(ValueError, match="it has more than"):
        given.read(png(np.zeros((9, 9), np.uint8)), PICTURE, "")


# --- answers ------------------------------------------------------------------------------------


def test_one_s_own_takes_the_place_of_the_example_s(looked_at):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[0, 0] = 1  # in the raw range, although it looks like [0, 1]
    batch = answers.observed_batch(looked_at, 3, ["picture", "text"], [png(pixels), None])
    np.testing.assert_array_equal(looked_at.sampler.as_raw(batch)["picture"][0, ..., 0], pixels)
    np.testing.assert_array_equal(batch["text"], looked_at.examples["text"][2:3])
    assert answers.observed_batch(looked_at, 1, [], [None, None]) == {}


@pytest.mark.parametrize(
    ("example", "observed", "own", "said"),
    [
        (1, ["text"], [png(np.zeros((8, 8), np.uint8)), None], "picture is given but not observed"),
        (5, ["text"], [None, None], "example is 5: give 1 to 4"),
        (0, [], [None, None], "example is 0"),
        (1, ["sound"], [None, None], "observed is .'sound'.: choose of picture, text"),
        (1, "text", [None, None], "observed is 'text'"),
        (1, [["text"]], [None, None], "choose of picture, text"),
    ],
)
def test_what_is_observed_must_be_there(looked_at, example, observed, own, said):
    with pytest.raises(ValueError, match=said):
        answers.observed_batch(looked_at, example, observed, own)


def test_controls_keep_to_their_sliders(looked_at):
    most = answers.limits(looked_at.sampler)
    assert most == answers.Limits(20, 20)
    assert answers.read_controls([2.0, 3, 4, 0.5, 6], most) == Controls(2, 3, 4, 0.5, 6)
    for wrong in (
        [0, 0, 0, 1, 0],
        [9, 0, 0, 1, 0],
        [1, 21, 0, 1, 0],
        [1, 0, 21, 1, 0],
        [1, 0, 0, 2.1, 0],
        [1, 0, 0, float("nan"), 0],
        [1, 0, 0, "1", 0],
        [1, 0, 0, 1, -1],
    ):
        with pytest.raises(ValueError, match="give"):
            answers.read_controls(wrong, most)
    for wrong in ([1.5, 0, 0, 1, 0], [None, 0, 0, 1, 0]):
        with pytest.raises(TypeError, match="give a whole number"):
            answers.read_controls(wrong, most)


def test_an_answer_shows_draws_and_chains(looked_at):
    shown, chain = answers.sample(looked_at, 2, ["picture"], [3, 2, 4, 1.0, 0], [None, None])
    for title in ("Observed", "From the generator", "Refined under the energy"):
        assert title in shown
    assert chain.count("<svg") == 2  # one for the data chain, one for the posterior chain
    for page in (shown, chain, views.head(looked_at), answers.exchange(looked_at, "text")):
        assert "<i>" not in page
        assert "http" not in page
        assert "<script" not in page
    assert "&lt;i&gt;model" in views.head(looked_at)
    assert "No refinement steps" in views.chain(
        looked_at, draws.draw(looked_at.sampler, {}, Controls(1, 0, 0))
    )


def test_a_chain_that_leaves_the_usual_energies_is_told(looked_at, monkeypatch):
    monkeypatch.setattr(Sampler, "energy_warning", lambda self, *_: f"left after {_[1]} steps")
    shown, _ = answers.sample(looked_at, 1, [], [1, 0, 9, 1, 0], [None, None])
    assert '<p class="warning">left after 9 steps</p>' in shown


def test_the_table_marks_matching_pairs_and_the_least_of_a_row(looked_at):
    page = views.exchange(looked_at, "text", np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert page.count('class="matching least"') == 1
    assert page.count('class="matching "') == 1
    assert page.count('class=" least"') == 1
    assert "in 1 of 2 rows; mean energy 2.5" in page


def test_an_animation_holds_every_step(looked_at):
    (modality, text) = looked_at.sampler.modalities
    shades = np.linspace(-1, 1, 5 * 2, dtype=np.float32).reshape(5, 2, 1, 1, 1)
    trajectory = np.broadcast_to(shades, (5, 2, 8, 8, 1))
    strip = views.animated(modality, trajectory, "")
    content = base64.b64decode(strip.picture.partition(",")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 5
        for step in range(5):
            image.seek(step)
            pixels = np.asarray(image.convert("RGBA"))
            expected = np.round((shades[step, :, 0, 0, 0] + 1) * 127.5)
            np.testing.assert_array_equal(pixels[3, [3, 9 + 3], 0], expected)
    ends = np.eye(4, dtype=np.float32)[[[0, 1, 3]]]
    strip = views.animated(text, np.stack([ends[:, ::-1], ends]), LETTERS)
    assert strip.lines == ("ab<",)
    assert strip.label == "text, at the end"


# --- the model and its examples -----------------------------------------------------------------


@pytest.fixture
def export(tmp_path):
    return shutil.copytree(OLD, tmp_path / "model")


def test_an_export_is_opened_with_test_data(export):
    found = subject.open_subject(str(export))
    assert (found.name, found.note) == ("model", "")
    assert {name: len(x) for name, x in found.examples.items()} == dict.fromkeys(
        ("m0", "m1", "m2"), subject.NUM_EXAMPLES
    )
    data = exports.read_data_section(exports.epath.Path(export)).data
    assert (data.name, data.num_test) == ("polydigits", 100)


def test_no_path_of_an_export_is_followed(export):
    config = json.loads((export / "config.json").read_text())
    config["data"] = {"name": "folder", "path": "/etc", "image_size": 32}
    (export / "config.json").write_text(json.dumps(config))
    section = exports.read_data_section(exports.epath.Path(export)).data
    assert (section.name, section.path, section.image_size) == ("folder", "", 32)
    found = subject.open_subject(str(export))
    assert "Samples of the model stand for test examples" in found.note
    assert found.examples["m0"].shape == (subject.NUM_EXAMPLES, 16, 16, 3)
    assert "Samples of the model" in views.head(found)


@pytest.mark.parametrize("data", [{"name": "nothing"}, {"name": ["x"]}])
def test_an_export_of_an_unknown_data_set_is_one_line(export, data):
    config = json.loads((export / "config.json").read_text())
    (export / "config.json").write_text(json.dumps(config | {"data": data}))
    with pytest.raises(ValueError, match="is of another version"):
        exports.read_data_section(exports.epath.Path(export))


# --- the command --------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line(capsys):
    pytest.importorskip("gradio", reason="Gradio is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, errors = run_here(capsys, "--mode=app", f"--workdir={OLD}", f"--port={port}")
    assert status == 2
    assert_one_line(errors, f"127.0.0.1:{port} cannot be listened on", "choose another --port")


def test_an_app_without_gradio_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(app_options, "can_serve", lambda: False)
    status, errors = run_here(capsys, "--mode=app", f"--workdir={OLD}")
    assert status == 2
    assert_one_line(errors, "pip install 'mmebm_jax[app]'")


def test_a_folder_without_a_model_is_one_line(capsys, tmp_path):
    pytest.importorskip("gradio", reason="Gradio is not installed")
    status, errors = run_here(capsys, "--mode=app", f"--workdir={tmp_path}", "--port=7979")
    assert status == 2
    assert_one_line(errors, f"{tmp_path} holds no run")


@pytest.mark.parametrize("flag", ["--port=1234", "--host=0.0.0.0"])
def test_the_app_s_flags_act_in_its_mode_alone(capsys, tmp_path, flag):
    status, errors = run_here(capsys, "--mode=sample", f"--workdir={tmp_path}", flag)
    assert status == 2
    assert_one_line(errors, "does not act in --mode=sample, but in app")
