import numpy as np
import pytest

from mmebm_jax.metrics import neighbours
from mmebm_jax.metrics.neighbours import nearest_distances
from mmebm_jax.metrics.prdc import prdc


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK_MIB", 1e-4)  # 13 distances: one row at a time


def test_nearest_distance_of_points_in_the_plane(small_chunks):
    references = np.array([[0, 0], [3, 4], [10, 0]])
    queries = np.array([[3, 0], [3, 4], [10, 2], [-1, 0]])
    np.testing.assert_allclose(nearest_distances(queries, references), [3, 0, 2, 1])


def test_a_copy_is_at_distance_zero_exactly():
    images = np.random.default_rng(0).normal(1000, 1, size=(50, 4, 4, 3)).astype(np.float32)
    assert (nearest_distances(images[::-1], images) == 0).all()


def test_nearest_distance_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="2 features cannot be compared with 3"):
        nearest_distances(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="diverged"):
        nearest_distances(np.full((4, 2), np.inf), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="at least 1"):
        nearest_distances(np.zeros((0, 2)), np.zeros((4, 2)))


def test_prdc_on_a_line_by_hand(small_chunks):
    # Balls of real points: 0 ± 1, 1 ± 1, 3 ± 2, 6 ± 3. Balls of generated points: .5 ± 1, 1.5 ± 1,
    # 8 ± 6.5. Balls are open: 9 is not within 3 of 6.
    real, generated = np.array([[0.0], [1], [3], [6]]), np.array([[0.5], [1.5], [8]])
    result = prdc(real, generated, num_neighbours=1)
    # .5 is in the balls of 0 and 1; 1.5 in those of 1 and 3; 8 in that of 6.
    assert result == {"precision": 1.0, "recall": 1.0, "density": 5 / 3, "coverage": 1.0}
    far = prdc(real, np.array([[0.5], [20], [21], [22]]), num_neighbours=1)
    # Generated balls: .5 ± 19.5 contains all of them.
    assert far == {"precision": 0.25, "recall": 1.0, "density": 2 / 4, "coverage": 2 / 4}
    out = prdc(real, np.array([[9.0], [9.5], [10.0]]), num_neighbours=1)
    assert out == {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}


def test_prdc_second_neighbour_by_hand():
    # k = 2: 0 ± 3, 1 ± 2, 3 ± 3, 6 ± 5; generated 2 ± 8, 4 ± 6, 10 ± 8.
    real, generated = np.array([[0.0], [1], [3], [6]]), np.array([[2.0], [4], [10]])
    result = prdc(real, generated, num_neighbours=2)
    # 2 is in the balls of 0, 1, 3, 6; 4 in those of 3, 6; 10 in that of 6.
    assert result["density"] == pytest.approx(7 / 3 / 2)
    assert result["precision"] == result["recall"] == result["coverage"] == 1


def test_prdc_of_a_copy_and_of_the_same_distribution():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(1000, 4))
    assert prdc(real, real) == {"precision": 1, "recall": 1, "density": 1, "coverage": 1}
    result = prdc(real, rng.normal(size=(800, 4)))
    expected = 1 - np.prod([(1000 - i) / (1800 - i) for i in range(1, 6)])
    assert result["coverage"] == pytest.approx(expected, abs=0.02)
    assert result["density"] == pytest.approx(1, abs=0.08)


def test_prdc_tells_a_lost_mode_from_noise():
    rng = np.random.default_rng(0)
    modes = np.array([[0.0, 0], [50, 0], [0, 50], [50, 50]])
    real = modes.repeat(100, 0) + rng.normal(size=(400, 2))
    one_mode = rng.normal(size=(400, 2))
    result = prdc(real, one_mode)
    assert result["precision"] > 0.9
    # A generated ball reaches no other mode, so what is covered lies in one of four modes.
    assert result["recall"] <= 0.25
    assert result["coverage"] <= 0.25
    noise = rng.uniform(1000, 2000, size=(400, 2))
    assert prdc(real, noise)["precision"] == 0


@pytest.mark.parametrize("neighbours", [0, 4, 9])
def test_prdc_refuses_neighbours_out_of_range(neighbours):
    with pytest.raises(ValueError, match="pass 1 to 3"):
        prdc(np.zeros((9, 2)), np.zeros((4, 2)), num_neighbours=neighbours)
