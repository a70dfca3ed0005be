"""A folder of the user's own pictures, some damaged, is prepared, trained on and evaluated."""

import io
import json

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

import mmebm_jax
from configs import folder
from experiments import evaluate, measures, page
from mmebm_jax import training
from mmebm_jax.data import from_arrays
from tests.commands import SHRINK

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 210)}
SIZES = {name: size for name, size in SHRINK.items() if name.startswith("model.")}
SMALL = SIZES | {"data.image_size": 8}


def encoded(number, image):
    """The picture in one of many formats: file name and content."""
    forms = {
        "rgb.png": (image, {}),
        "palette.png": (image.convert("P"), {}),
        "alpha.png": (image.convert("RGBA"), {}),
        "grey.png": (image.convert("L"), {}),
        "deep.png": (Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257), {}),
        "turned.jpg": (image, {"exif": turned()}),
    }
    ending = list(forms)[number % len(forms)]
    form, options = forms[ending]
    buffer = io.BytesIO()
    form.save(buffer, "JPEG" if ending.endswith("jpg") else "PNG", **options)
    return f"{number}_{ending}", buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 8
    return exif


def make(root):
    """Fifty training pictures: one truncated, one missing, one with a caption that is not UTF-8."""
    for split, count in {"train": 50, "test": 20}.items():
        (root / split).mkdir(parents=True)
        lines = []
        for number in range(count):
            word, colour = list(COLOURS.items())[number % 3]
            image = Image.new("RGB", (8 + number % 7, 9 + number % 5), colour)
            name, content = encoded(number, image)
            entry = {"file_name": name, "text": [f"a {word} square", f"it is {word}"]}
            line = json.dumps(entry).encode()
            if (split, number) == ("train", 7):
                content = content[: len(content) // 2]
            if (split, number) == ("train", 30):
                line = line.replace(b"square", b"squ\xe4re")
            if (split, number) != ("train", 20):
                (root / split / name).write_bytes(content)
            lines.append(line)
        (root / split / "metadata.jsonl").write_bytes(b"\n".join(lines))
    return root


@pytest.mark.slow
def test_a_folder_of_mixed_pictures_is_prepared_trained_and_evaluated(
    tmp_path, caplog, quick_compilation
):
    config, workdir = folder.get_config("smoke"), epath.Path(tmp_path / "run")
    config.update_from_flattened_dict(SMALL)
    config.data.update(path=str(make(tmp_path / "mine")), data_dir=str(tmp_path / "prepared"))
    with pytest.raises(ValueError, match=r"train/metadata\.jsonl line 31: is not UTF-8") as caught:
        training.prepare(config, workdir)
    assert "config.data.skip_damaged" in str(caught.value)
    config.data.skip_damaged = True
    with caplog.at_level("INFO", "mmebm_jax"):
        run = training.prepare(config, workdir)
    for damaged in ("7_palette.png", "20_alpha.png is missing", "line 31: is not UTF-8"):
        assert damaged in caplog.text
    assert "prepared 47 to train, 20 to test; 3 left out" in caplog.text
    state, _ = training.train(run)
    assert int(state.step) == config.num_steps
    assert list((workdir / "images").glob("samples_*.png"))
    samples = mmebm_jax.load(workdir).sample(jax.random.key(0), 4)
    assert samples["image"].shape == (4, 8, 8, 3)
    # A data set without classes is evaluated, and the result says what it lacks.
    measures.check(run)
    sampler, step = training.restore_sampler(run)
    judges = evaluate.Classifiers(run, workdir / "classifiers")
    result = evaluate.evaluate(run, sampler, step, judges)
    assert {"energies", "log_likelihood", "conditional_log_likelihood"} <= set(result)
    assert not {"joint_coherence", "frechet", "diversity"} & set(result)
    for name in ("joint_samples", "cross_samples", "linear_probes", "class_balance", "fidelity"):
        assert result["absent"][name] == "the data have no labels of two classes or more"
    assert np.isfinite(result["log_likelihood"]["test"]["mean"])
    # Pairs are judged without classes. The pool is the test split, with 20 examples.
    assert result["retrieval"]["pool"] == 20
    assert {"real", "joint", "pictures_drawn", "others_drawn"} <= set(result["retrieval"]["mean"])
    shown = evaluate.table(result)
    assert "retrieval, pictures drawn" in shown
    page.draw(tmp_path / "page.png", run.splits, sampler, jax.random.key(0), 4)
    assert (tmp_path / "page.png").stat().st_size > 2000
    assert "not measured: joint_samples: the data have no labels" in shown


def test_a_configuration_and_arrays_train_by_one_call(tmp_path, quick_compilation):
    rng = np.random.default_rng(0)

    def arrays(count):
        return {
            "picture": rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8),
            "words": ["a bird sings", "a dog", ""][:1] * count,
            "place": rng.normal(size=(count, 2)),
        }

    train = arrays(24)
    train["words"] = ["" if n % 5 == 0 else f"bird {n % 3}" for n in range(24)]
    data = from_arrays(train, arrays(12), length=4)
    config = folder.get_config("smoke")
    config.update_from_flattened_dict(SIZES)
    state, _ = training.train(config, data, tmp_path / "run")
    assert int(state.step) == config.num_steps
    assert config.data.name == "folder"  # the caller's config is unchanged
    with pytest.raises(ValueError, match="arrays that were given from Python"):
        training.prepare(mmebm_jax.runs.checkpoint.read_config(epath.Path(tmp_path / "run")), "x")
    run = training.prepare(config, tmp_path / "run", data=data)
    sampler, step = training.restore_sampler(run)
    assert step == config.num_steps
    classifiers = evaluate.Classifiers(run, epath.Path(tmp_path / "none"))
    assert classifiers.accuracies == {}
    subject = measures.Subject(run, sampler, classifiers)
    assert "energies" in measures.samples.energies(subject)
    other = from_arrays(arrays(24), arrays(12), length=4)
    with pytest.raises(ValueError, match=r"run on version .* of this data set, which is now"):
        training.train(config, other, tmp_path / "run")
    with pytest.raises(TypeError, match="workdir is missing"):
        training.train(config, data)
