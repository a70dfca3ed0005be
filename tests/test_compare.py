import json

import pytest
from etils import epath

from configs.polydigits import get_config
from experiments import compare


def result(joint, distance, cross):
    return {
        "step": 10,
        "joint_coherence": joint,
        "frechet": distance,
        "cross_coherence": {"mean": cross},
    }


def test_refined_samples_come_before_the_generators_own():
    one = result({"generator": 0.5, "energy": 0.7}, {"generator": 9.0}, 0.8)
    assert compare.lookup(one, ("joint_coherence", "energy", "generator")) == 0.7
    assert compare.lookup(one, ("frechet", "energy", "generator")) == 9.0
    assert compare.lookup(one, ("cross_coherence", "expert_mean")) is None
    assert compare.lookup(one, ("train_seconds",)) is None


def test_mean_and_deviation_over_seeds(tmp_path):
    runs = [result({"generator": j}, {"generator": 4.0}, 0.5) for j in (0.1, 0.2, 0.6)]
    summary = compare.summarise({"vae": runs, "other": runs[:1]})
    assert summary["vae"]["joint coherence"]["mean"] == pytest.approx(0.3)
    assert summary["vae"]["joint coherence"]["standard_deviation"] == pytest.approx(0.07**0.5)
    assert "seconds" not in summary["vae"]
    table = compare.to_markdown(summary).splitlines()
    assert "0.300 ± 0.265" in table[2]
    assert "±" not in table[3]
    compare.draw(summary, epath.Path(tmp_path))
    assert (tmp_path / "comparison.png").stat().st_size > 1000


def test_a_finished_run_is_read_and_not_trained_again(tmp_path):
    (tmp_path / "mixture_control").mkdir()
    for name, joint in (("", 0.4), ("mixture_control", 0.8)):
        content = json.dumps(result({"generator": joint}, {"generator": 1.0}, 0.9))
        (tmp_path / name / "evaluation.json").write_text(content)
    found = compare.run_one(get_config("elbo"), epath.Path(tmp_path), epath.Path(tmp_path))
    assert [found[name]["joint_coherence"]["generator"] for name in ("", " + mixture")] == [
        0.4,
        0.8,
    ]
