import numpy as np
import pytest
from matplotlib import image as mpl_image

from mmebm_jax.training import plotting


def _batch(n):
    rng = np.random.default_rng(0)
    return {
        "m0": rng.uniform(-1, 1, (n, 16, 16, 3)).astype(np.float32),
        "m1": rng.integers(0, 256, (n, 28, 28, 1), np.uint8),
        "word": rng.random((n, 8, 4)),
        "point": rng.uniform(-1, 1, (n, 2)),
    }


def test_picture_covers_the_range_and_survives_divergence():
    values = np.array([-1, 0, 1, 7, -7, np.nan, np.inf, -np.inf], np.float32)
    picture = plotting.to_picture(values.reshape(1, 8, 1))
    assert picture.dtype == np.uint8
    assert picture.shape == (1, 8, 3)
    assert picture[0, :, 0].tolist() == [0, 128, 255, 255, 0, 128, 255, 0]
    raw = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(plotting.to_picture(raw), raw)
    with pytest.raises(ValueError, match="C 1 or 3"):
        plotting.to_picture(np.zeros((4, 4, 2)))


def test_text_is_spelt_out():
    assert plotting.to_text(np.eye(3)[[1, 2, 0]], " ab") == "ab "
    assert plotting.to_text(np.eye(3)[[1, 2, 0]]) == "1 2 0"


@pytest.mark.parametrize(("name", "scale"), [("m0", 3), ("point", 28)])
def test_grid_draws_images_and_strips_pixel_for_pixel(tmp_path, name, scale):
    batch = {name: _batch(3)[name]}
    plotting.save_grid(tmp_path / "new" / "grid.png", {"data": batch})
    drawn = (mpl_image.imread(tmp_path / "new" / "grid.png")[..., :3] * 255).round().astype(int)
    image = batch[name][0] if name == "m0" else batch[name][0].reshape(1, 2, 1)
    picture = plotting.to_picture(image).repeat(scale, 0).repeat(scale, 1).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(drawn, picture.shape)[:, :, 0]
    # The first corner pixel rules out nearly every place, which keeps the search small.
    places = np.argwhere((windows[:, :, 0, 0] == picture[0, 0]).all(-1))
    assert any(np.array_equal(windows[r, c], picture) for r, c in places)


def test_grid_and_trajectories_write_pictures(tmp_path):
    titles = ("data", "generator", "given m0 → rest", "costs $5 or $6")
    plotting.save_grid(tmp_path / "grid.png", {t: _batch(5) for t in titles}, " abc")
    chains = {name: np.stack([value] * 6) for name, value in _batch(2).items()}
    plotting.save_trajectories(tmp_path / "chains.png", chains, range(0, 30, 5), " abc")
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
        plotting.save_grid(tmp_path / "x.png", {})
    with pytest.raises(ValueError, match="'data' has no examples"):
        plotting.save_grid(tmp_path / "x.png", {"data": {}})
    with pytest.raises(ValueError, match="m0 has 4 steps"):
        plotting.save_trajectories(tmp_path / "x.png", {"m0": np.zeros((4, 1, 8, 8, 3))}, [0, 1])
    assert not (tmp_path / "x.png").exists()
