import jax
import pytest
from etils import epath

from configs.polydigits import get_config
from experiments import check
from mmebm_jax import training as train
from mmebm_jax.method.model import NETWORKS

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = get_config("smoke")
    config.data.update(num_modalities=2, num_train=40, num_test=30)
    config.model.update(num_latents=3, width=2, hidden=8, prior_hidden=8)
    config.model.update(energy_width=2, energy_hidden=8)
    workdir = epath.Path(tmp_path_factory.mktemp("check")) / "run"
    return train.prepare(config, workdir)


@pytest.fixture(scope="module")
def text(run):
    return check.plan(run)


def test_the_plan_tells_parameters_memory_steps_and_checkpoints(run, text):
    params = jax.eval_shape(lambda: run.model.init(jax.random.key(0)))
    for name in NETWORKS:
        count = sum(leaf.size for leaf in jax.tree.leaves(params[name]))
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
        assert line.split()[1] == f"{count:,}"
    assert "40 to train, 30 to test: m0 (image 16x16x3)" in text
    assert "8, 1.6 epochs" in text
    assert "every 4 steps, the newest 2 kept" in text
    assert "MB a device" in text


def test_the_plan_tells_when_which_network_learns(text):
    lines = text.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("  from step")) + 2 :]
    assert [line.split(maxsplit=1) for line in table[: table.index("")]] == [
        ["0", "inference, generator"],
        ["2", "inference, generator"],
        ["4", "inference, generator, prior, energy"],
    ]


def test_the_plan_tells_every_field_that_is_not_at_its_default(text):
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == ["field", "value", "default"])
    table = {line.split()[0]: line.split()[1:] for line in lines[start + 2 :]}
    assert table["config.num_steps"] == ["8", "6000"]
    assert table["config.model.aggregator"] == ["hellinger", "mixture"]
    assert table["config.data.num_modalities"] == ["2", "3"]
    assert "config.seed" not in table


def test_the_smoke_plan_begins_all_that_it_asks_for(run, text):
    assert "warning:" not in text
    assert not check.never_acting(run.config)


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("energy.start_step", {"energy.learn": False}),
        ("prior.start_step", {"prior.learn": False}),
        ("schedule.freeze_step", {"schedule.freeze_step": 0}),
        ("warmup_steps", {"warmup_steps": 0}),
    ],
)
def test_what_is_on_and_never_acts_is_told(run, name, off):
    config = run.config.copy_and_resolve_references()
    config.update_from_flattened_dict({name: config.num_steps})
    (line,) = check.never_acting(config)
    assert f"config.{name} is 8, but the run ends at step 8" in line
    config.update_from_flattened_dict(off)
    assert not check.never_acting(config)


def test_nothing_is_written(run, text):
    assert not run.workdir.exists()


def test_checkpoints_that_do_not_fit_are_refused(run, monkeypatch):
    usage = check.shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"do not fit .* lower config\.keep_checkpoints"):
        check.plan(run)
