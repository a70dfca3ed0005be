from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import image as mpl_image

from mmebm_jax.modalities.modality import Modality
from mmebm_jax.training import plotting

MODALITIES = (
    Modality("m0", "image", (16, 16, 3), "gaussian"),
    Modality("m1", "image", (28, 28, 1), "gaussian"),
    Modality("word", "text", (8, 4), "categorical"),
    Modality("point", "vector", (2,), "gaussian"),
)
DRAW = {modality.name: modality.of_kind.draw for modality in MODALITIES}


def _batch(n):
    rng = np.random.default_rng(0)
    return {m.name: rng.uniform(-1, 1, (n, *m.shape)).astype(np.float32) for m in MODALITIES}


@pytest.mark.parametrize(("name", "scale"), [("m0", 3), ("point", 28)])
def test_grid_shows_what_the_kind_draws_pixel_for_pixel(tmp_path, name, scale):
    batch = {name: _batch(3)[name]}
    plotting.save_grid(tmp_path / "new" / "grid.png", {"data": batch}, MODALITIES)
    drawn = (mpl_image.imread(tmp_path / "new" / "grid.png")[..., :3] * 255).round().astype(int)
    picture = DRAW[name](batch[name], "")[0].repeat(scale, 0).repeat(scale, 1).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(drawn, picture.shape)[:, :, 0]
    # The first corner pixel rules out nearly every position, which keeps the search small.
    places = np.argwhere((windows[:, :, 0, 0] == picture[0, 0]).all(-1))
    assert any(np.array_equal(windows[r, c], picture) for r, c in places)


def test_a_kind_of_modality_decides_how_it_is_drawn_and_not_its_rank(tmp_path):
    """The same numbers in the same shape: drawn as a strip, or spelled out as text by the kind."""
    spelt = SimpleNamespace(name="spelt", of_kind=SimpleNamespace(draw=lambda x, _: ["x"] * len(x)))
    values = {"point": np.full([2, 2], -1.0)}
    plotting.save_grid(tmp_path / "strip.png", {"": values}, MODALITIES)
    plotting.save_grid(tmp_path / "text.png", {"": {"spelt": values["point"]}}, [spelt])
    dark = {
        name: (mpl_image.imread(tmp_path / f"{name}.png")[..., :3] < 0.5).all(-1).sum()
        for name in ("strip", "text")
    }
    assert dark["strip"] >= 2 * 28 * 56  # both strips are solid, with 28 pixels per cell
    assert 0 < dark["text"] < 500


def test_grid_and_trajectories_write_pictures(tmp_path):
    titles = ("data", "generator", "given m0 → rest", "costs $5 or $6")
    plotting.save_grid(tmp_path / "grid.png", {t: _batch(5) for t in titles}, MODALITIES, " abc")
    chains = {name: np.stack([value] * 6) for name, value in _batch(2).items()}
    steps = range(0, 30, 5)
    plotting.save_trajectories(tmp_path / "chains.png", chains, steps, MODALITIES, " abc")
    for name in ("grid", "chains"):
        picture = mpl_image.imread(tmp_path / f"{name}.png")
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.1


def test_curves_leave_gaps_where_values_are_missing(tmp_path):
    records = [{"step": s, "energy": 1 / (s + 1)} for s in range(50)]
    records[3]["energy"] = float("nan")
    records[5] = {"step": 5, "note": "no numbers"}
    records[7]["accuracy"] = 0.5
    plotting.save_curves(tmp_path / "curves.png", records)
    assert (tmp_path / "curves.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="no record"):
        plotting.save_curves(tmp_path / "curves.png", records, ["absent"])


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        plotting.save_grid(tmp_path / "x.png", {}, MODALITIES)
    with pytest.raises(ValueError, match="'data' has no examples"):
        plotting.save_grid(tmp_path / "x.png", {"data": {}}, MODALITIES)
    frames = {"m0": np.zeros((4, 1, 16, 16, 3))}
    with pytest.raises(ValueError, match="m0 has 4 steps"):
        plotting.save_trajectories(tmp_path / "x.png", frames, [0, 1], MODALITIES)
    assert not (tmp_path / "x.png").exists()
