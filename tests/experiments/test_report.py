import base64
import html.parser
import io
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from configs.polydigits import get_config
from experiments import report
from experiments.report import collect, figures, findings, pictures, presets, samples, tables
from mmebm_jax.method import train_state
from mmebm_jax.modalities.kinds import KINDS
from mmebm_jax.runs import builders, checkpoint
from tests.commands import assert_one_line, digest, run_here, small_config

pytestmark = pytest.mark.usefixtures("quick_compilation")

MOST_BYTES = 8 * 10**6
SECTIONS = {
    "warnings",
    "setup",
    "results",
    "curves",
    "joint",
    "conditional",
    "chains",
    "energies",
    "health",
    "numbers",
}
HOSTILE = "</style><script>alert(1)</script><img src=//x.example>"
CHAINS = ("posterior", "prior", "data")


def evaluation(joint):
    return {
        "step": 8,
        "num_samples": 100,
        "protocol": {"frechet": HOSTILE, "refinement_steps": 10},
        "made": {"version": "abc", "machine": "a machine", "date": "2026-01-02"},
        "classifier_accuracy": {"m0": 0.9, "m1": 0.8},
        "joint_coherence": {"generator": joint, "real_data": 0.75, "chance": 0.1},
        "cross_coherence": {"mean": 0.5, "drawn": 0.625},
        "diversity": {"conditional": 0.0625, "conditional_pixels": 0.5},
        "frechet": {"generator": 40.0 + joint, "floor": 5.0},
        "warnings": [HOSTILE],
        "absent": {"FID": "needs config.evaluation.inception_weights"},
    }


def save_learned(folder, config):
    """A checkpoint with untrained weights whose energies count as learned."""
    folder = epath.Path(folder)
    splits, optimisers = builders.build_data(config), builders.build_optimisers(config)
    model = builders.build_model(config, splits.fields)
    state = train_state.create(jax.random.key(0), model, optimisers, config.prior.num_components)
    learned = {name: count + 1 for name, count in state.num_updates.items()}
    checkpoint.write_config(folder, config, splits)
    manager = checkpoint.open_manager(folder)
    checkpoint.save(manager, state._replace(num_updates=learned), {})
    manager.wait_until_finished()


def write_logs(folder, joint=0.5):
    """The files that training and evaluation write next to a checkpoint."""
    rows = [{"step": n, "loss/elbo": 9.0 / n, HOSTILE: 1.0 * n} for n in range(1, 400)]
    healths = [
        {"event": "diagnostics", "step": n} | {f"chain/{c}_r_hat": 1.0 + n for c in CHAINS}
        for n in (1, 2)
    ]
    lines = [json.dumps(record) for record in [*rows, *healths, {"event": "explosion", "step": 2}]]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 40')
    (folder / "evaluation.json").write_text(json.dumps(evaluation(joint)))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two methods with two seeds each; one run has a control, and one method a strange name."""
    folder = tmp_path_factory.mktemp("comparison")
    first = folder / "seed0" / "full"
    save_learned(first, small_config())
    write_logs(first)
    for number, name in enumerate(["seed1/full", "seed0/<b>&", "seed1/<b>&"]):
        shutil.copytree(first, folder / name)
        write_logs(folder / name, joint=0.25 * number)
        config = small_config(seed=int(name[4]))
        (folder / name / "config.json").write_text(config.to_json_best_effort())
    control = first / collect.CONTROL_FOLDER
    control.mkdir()
    (control / "evaluation.json").write_text(json.dumps(evaluation(0.875)))
    return epath.Path(folder)


@pytest.fixture(scope="module")
def page(comparison):
    before = digest(Path(comparison))
    path = report.write(comparison)
    after = digest(Path(comparison))
    assert set(after) - set(before) == {"report.html"}
    assert {name: after[name] for name in before} == before  # the run's own files are untouched
    return path


class Elements(html.parser.HTMLParser):
    """All elements with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_every_section_is_there_and_every_picture_decodes(page):
    elements = Elements(page.read_text())
    assert [a["id"] for tag, a in elements.found if tag == "section"] == list(
        dict.fromkeys(a["href"][1:] for tag, a in elements.found if tag == "a")
    )
    assert {a["id"] for tag, a in elements.found if tag == "section"} == SECTIONS
    images = [a["src"] for tag, a in elements.found if tag == "img"]
    # For each of two methods: generator, refined, three given sources each, chains; and test data.
    assert len(images) > 2 * (2 * 2 + 2 * 6 * 2 + 3 * 2)
    for uri in images:
        kind, _, content = uri.partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
            image.load()
            assert image.mode == "RGBA"
    figures_found = sum(tag == "svg" for tag, _ in elements.found)
    assert figures_found >= 2 + 2 + 3 + 2 * 2  # scatters, curves, R-hats, energies of two methods


def test_the_page_is_small_and_refers_to_nothing_outside_itself(page):
    text = page.read_text()
    assert len(text.encode()) < MOST_BYTES
    for tag, attributes in Elements(text).found:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value.startswith(("#", "data:")), (tag, name, value)
    assert not re.search(r"url\((?!#)", text)
    assert "http:" not in text
    assert "https:" not in text
    assert "//" not in re.sub(r"data:[^\"]*", "", text).replace("src=//x.example", "")


def test_what_files_hold_is_shown_and_never_obeyed(page):
    text = page.read_text()
    assert HOSTILE not in text
    assert "<b>&," not in text
    words = "".join(Elements(text).words)
    assert HOSTILE in words  # in the warnings, the protocol, a metric's name
    assert "<b>&, seed 1" in words


def test_the_page_says_what_ran_and_what_was_measured(page):
    words = " ".join("".join(Elements(page.read_text()).words).split())
    for expected in (
        "4 runs of mmebm_jax",
        "configs/polydigits.py:smoke",
        "config.data.num_train",
        "2026-01-02",
        "a machine",
        "full + mixture",
        "Not measured: FID, needs config.evaluation.inception_weights.",
        "draws given one modality vary by 0.062",
        "training exploded once",
        "R-hat of the prior chain diverges: 3.00 after 2.00",
    ):
        assert expected in words, expected


def test_a_table_has_means_over_seeds_and_its_floor(comparison):
    runs = collect.collect(comparison)
    assert [run.name for run in runs] == [
        "<b>&, seed 0",
        "full, seed 0",
        "<b>&, seed 1",
        "full, seed 1",
    ]
    found = tables.tables([e for run in runs for e in run.evaluations])
    first = found[0]
    heads = ["seeds", *(column.head for column in first.columns)]
    assert heads == ["seeds", "joint coherence", "Fréchet distance", "FD before refinement"]
    by_label = {row.label: dict(zip(heads, row.cells, strict=True)) for row in first.rows}
    # The values are .5 and 0, with standard deviation sqrt(1/8).
    assert by_label["full"]["joint coherence"] == "0.250 ± 0.354"
    assert by_label["full"]["seeds"] == "2"
    assert by_label["full + mixture"]["joint coherence"] == "0.875"
    assert by_label["real data"]["joint coherence"] == "0.750"
    assert by_label["real data"]["Fréchet distance"] == "5.0"
    assert list(by_label) == ["<b>&", "full", "full + mixture", "real data", "chance"]
    assert by_label["chance"]["joint coherence"] == "0.100"
    assert by_label["chance"]["Fréchet distance"] == "–"
    given = found[1]
    cross = [column.head for column in given.columns].index("cross coherence, drawn")
    assert given.rows[-1].cells[1 + cross] == "0.850"  # the classifiers' mean accuracy


def test_a_run_without_files_says_which_command_makes_them(comparison, tmp_path):
    shutil.copytree(comparison / "seed0" / "full", tmp_path / "bare run")
    for name in ("metrics.jsonl", "evaluation.json"):
        (tmp_path / "bare run" / name).unlink()
    shutil.rmtree(tmp_path / "bare run" / "checkpoints")
    shutil.rmtree(tmp_path / "bare run" / collect.CONTROL_FOLDER)
    (tmp_path / "bare run" / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "bare run" / "images" / "samples_0000004.png")
    (tmp_path / "bare run" / "images" / "chains_0000004.png").write_text("no picture")
    path = report.write(epath.Path(tmp_path / "bare run"))
    elements = Elements(path.read_text())
    words = " ".join("".join(elements.words).split())
    folder = f"--workdir='{tmp_path / 'bare run'}'"
    assert (
        f"has no evaluation. Make it with python -m experiments.main --mode=evaluate {folder}"
        in words
    )
    assert "has no checkpoint that this version can read. Make it with" in words
    train = "python -m experiments.main --config=configs/polydigits.py:smoke "
    assert f"{train}--config.data.num_modalities=2" in words
    assert "No warnings" in words
    images = [a["src"] for tag, a in elements.found if tag == "img"]
    assert len(images) == 1  # the one from training; the other is damaged


def test_damaged_files_are_told_and_the_rest_is_shown(comparison, tmp_path):
    shutil.copytree(comparison / "seed0" / "full", tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").write_text("{")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "0" / "weights")
    (run,) = collect.collect(epath.Path(tmp_path / "run"))
    assert "evaluation.json is damaged" in run.problems[0]
    assert len(run.evaluations) == 1  # of the control

    def draw(run):
        return pictures.draw(run.folder, run.config)

    shown = samples.samples([run], draw)
    assert "can be read" in shown.missing["joint"][0].line
    assert not shown.joint


def test_samples_keep_to_their_share_of_the_page(comparison, monkeypatch):
    (run, *_) = collect.collect(comparison)
    block = pictures.Block("a title", (pictures.Strip("m0", 2, "data:" + "x" * 995),))
    drawn = pictures.Drawn(joint=(block,) * 5)
    monkeypatch.setattr(samples, "MOST_PICTURE_BYTES", 3 * 3500)
    (shown,) = samples.samples([run], lambda run: drawn).joint
    assert len(shown.blocks) == 3
    assert "2 more would make the page too large: python -m experiments.main" in shown.note


def test_a_strip_holds_the_examples_side_by_side():
    values = np.stack([np.full((4, 8, 1), shade, np.float32) for shade in (-1, 0.2, 1)])
    made = pictures.strip("picture", KINDS["image"], values)
    with Image.open(io.BytesIO(base64.b64decode(made.picture.partition(",")[2]))) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (4, 3 * 9, 4)
    np.testing.assert_array_equal(pixels[0, [0, 9, 18], 0], [0, 153, 255])
    np.testing.assert_array_equal(pixels[0, [7, 8, 16, 17], 3], [255, 0, 255, 0])
    tiny = pictures.strip("vector", KINDS["vector"], np.zeros((2, 1), np.float32))
    with Image.open(io.BytesIO(base64.b64decode(tiny.picture.partition(",")[2]))) as image:
        assert image.size == (2 * (8 + pictures.GAP), 8)
    text = pictures.strip("text", KINDS["text"], np.eye(3)[[[0, 2], [1, 1]]], "a b")
    assert text.lines == ("ab", "  ")
    assert not text.picture


def test_a_far_value_is_cut_off_and_said():
    steps = list(range(100))
    wave = [float(n % 5) for n in steps]
    assert not figures.curves([(0, (steps, wave))], "a")[1]
    svg, is_cut = figures.curves([(0, (steps, [*wave[:-1], 1e9]))], "b")
    assert is_cut
    assert "1e9" not in svg
    assert "var(--series-0)" in svg


def test_figures_of_one_page_share_no_names():
    made = [figures.curves([(0, ([1, 2], [3, 4]))], salt)[0] for salt in "ab"]
    names = [set(re.findall(r' id="([^"]*)"', svg)) for svg in made]
    assert names[0]
    assert not names[0] & names[1]


def test_the_closest_preset_is_the_one_it_was_made_from():
    config = get_config("paper_b")
    assert presets.closest(config) == presets.Preset("configs/polydigits.py:paper_b", {})
    config.update(seed=3, batch_size=128)
    found = presets.closest(config)
    assert found == presets.Preset("configs/polydigits.py:paper_b", {"batch_size": (128, 64)})


def test_warnings_are_for_what_is_out_of_bounds(comparison):
    (run, *_) = collect.collect(comparison)
    good = run.evaluations[0]._replace(
        numbers={
            "protocol.refinement_steps": 10.0,
            "diversity.conditional": 0.9,
            "fidelity.recall": 0.7,
            "fidelity_of_training_data.recall": 0.8,
            "memorisation.copied": 0.02,
            **{f"energies.data.{name}": v for name, v in (("low", -2.0), ("high", 2.0))},
            "energies.refined.mean": 1.0,
        },
        warnings=(),
    )
    calm = run._replace(diagnostics=(), num_explosions=0, evaluations=(good,))
    assert findings.findings(calm) == []
    for change, topic in (
        ({"protocol.refinement_steps": 1000.0}, "chain length"),
        ({"diversity.conditional": 0.01}, "low diversity"),
        ({"fidelity.recall": 0.01}, "low diversity"),
        ({"memorisation.copied": 0.9}, "memorisation"),
        ({"energies.refined.mean": 3.0}, "energies"),
    ):
        bad = good._replace(numbers=good.numbers | change)
        assert [f.topic for f in findings.findings(calm._replace(evaluations=(bad,)))] == [topic]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((1.2, 1.1, 1.3), ""),
        ((1.9, 1.2, 1.5), "diverges: 1.50 after 1.20"),
        ((3.0, 2.5), "R-hat of the data chain is 2.50"),
        ((), ""),
    ],
)
def test_r_hat_is_said_where_it_grows_or_is_large(comparison, values, said):
    run = collect.collect(comparison)[0]
    health = tuple({"step": n, "chain/data_r_hat": v} for n, v in enumerate(values))
    lines = list(findings.r_hats(run._replace(diagnostics=health)))
    assert len(lines) == bool(said)
    assert said in "".join(lines)


@pytest.mark.parametrize("arguments", [[], ["--num_samples=4"], ["--refinement_steps=1"]])
def test_a_folder_without_a_run_is_one_line(tmp_path, capsys, arguments):
    status, errors = run_here(capsys, "--mode=report", f"--workdir={tmp_path}", *arguments)
    assert status != 0
    assert_one_line(errors, "does not act" if arguments else f"{tmp_path} holds no run")
    assert not list(tmp_path.iterdir())


def test_a_report_without_jinja_is_one_line_before_anything_is_drawn(
    comparison, capsys, monkeypatch
):
    monkeypatch.setattr(report, "can_write", lambda: False)
    status, errors = run_here(capsys, "--mode=report", f"--workdir={comparison}")
    assert status != 0
    assert_one_line(errors, "pip install 'mmebm_jax[report]'")


def browser():
    """A Chromium browser; the test is skipped if there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next((p for n in ("chromium", "google-chrome") if (p := shutil.which(n))), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    return sync_api.sync_playwright(), path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_the_page_without_error_or_sideways_scrolling(page, width, scheme):
    playwright, path = browser()
    complaints = []
    with playwright as session:
        chromium = session.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("requestfailed", lambda request: complaints.append(request.url[:80]))
        tab.goto(f"file://{page}")
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        broken = tab.evaluate("[...document.images].filter(i => !i.naturalWidth).length")
        across = tab.evaluate("document.documentElement.scrollWidth")
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        visible = tab.evaluate("[...document.querySelectorAll('section')].map(s => s.offsetHeight)")
        chromium.close()
    assert complaints == []
    assert broken == 0
    assert across == width
    assert min(visible) > 40
    shade = int(re.findall(r"\d+", background)[0])
    assert shade > 200 if scheme == "light" else shade < 50
