import numpy as np
import pytest

from mmebm_jax.modalities.kinds import KINDS
from mmebm_jax.modalities.modality import Modality, from_raw, to_raw

IMAGE, TEXT, VECTOR = (KINDS[name] for name in ("image", "text", "vector"))


def raw_examples():
    rng = np.random.default_rng(0)
    every_shade = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    return {
        "image": (Modality("m", "image", (8, 8, 1), "gaussian"), every_shade),
        "text": (
            Modality("m", "text", (3, 5), "categorical"),
            rng.integers(5, size=(4, 3)).astype(np.int32),
        ),
        "vector": (
            Modality("m", "vector", (6,), "laplace"),
            rng.uniform(-1, 1, size=(4, 6)).astype(np.float32),
        ),
        "category": (
            Modality("m", "category", (5,), "categorical"),
            rng.integers(5, size=4).astype(np.int32),
        ),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_raw_data_come_back_from_model_range(kind):
    modality, raw = raw_examples()[kind]
    values = from_raw(modality, raw)
    assert values.dtype == np.float32
    assert values.shape == (4, *modality.shape)
    low, high = modality.bounds
    assert low <= float(values.min()) <= float(values.max()) <= high
    back = to_raw(modality, values)
    assert back.dtype == modality.of_kind.raw_dtype == raw.dtype
    assert back.shape[1:] == modality.of_kind.raw_shape(modality.shape)
    np.testing.assert_array_equal(back, raw)


@pytest.mark.parametrize("kind", KINDS)
def test_good_raw_data_have_no_problem(kind):
    modality, raw = raw_examples()[kind]
    wrong, _ = modality.of_kind.problems(raw, modality.shape)
    assert wrong.shape == (4,)
    assert not wrong.any()


def test_model_range_by_hand():
    picture = Modality("m", "image", (4, 4, 1), "gaussian")
    raw = np.zeros([1, 4, 4, 1], np.uint8)
    raw.flat[:2] = 255, 51
    np.testing.assert_allclose(from_raw(picture, raw).ravel()[:3], [1, -0.6, -1], rtol=1e-6)
    text = Modality("m", "text", (2, 3), "categorical")
    np.testing.assert_array_equal(
        from_raw(text, np.array([[2, 0]], np.int32)), [[[0, 0, 1], [1, 0, 0]]]
    )


def test_values_outside_the_range_and_relaxed_text_have_a_nearest_raw_value():
    values = np.array([-1.05, 1.05, 0.0, 0.999], np.float32)
    assert IMAGE.to_raw(values).tolist() == [0, 255, 128, 255]
    assert TEXT.to_raw(np.array([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]])).tolist() == [1, 0]


def test_which_dtypes_are_raw():
    assert IMAGE.is_raw(np.dtype(np.uint8))
    assert not IMAGE.is_raw(np.dtype(np.float32))
    assert TEXT.is_raw(np.dtype(np.int64))
    assert not TEXT.is_raw(np.dtype(np.float32))
    assert not VECTOR.is_raw(np.dtype(np.float32))


def test_problems_name_the_example():
    tokens = np.array([[0, 4], [-1, 0], [5, 5], [0, 5]], np.int32)
    wrong, why = TEXT.problems(tokens, (2, 5))
    assert wrong.tolist() == [False, True, True, True]
    assert why == "leaves 0..4"
    vectors = np.array([[0.0, 1.05], [np.nan, 0.0], [0.0, np.inf], [-101.0, 0.0], [100.0, -100.0]])
    wrong, why = VECTOR.problems(vectors, (2,))
    assert wrong.tolist() == [False, True, True, True, False]
    assert "about [-1, 1]" in why


def test_images_need_sides_that_two_halvings_divide():
    assert IMAGE.problem_of_shape((8, 12, 3)) == ""
    for shape in ((6, 8, 1), (8, 6, 1)):
        assert "multiples of 4" in IMAGE.problem_of_shape(shape)
        with pytest.raises(ValueError, match=r"modality m has shape .*multiples of 4"):
            Modality("m", "image", shape, "gaussian")


def test_drawn_images_are_colour_and_have_no_hole():
    values = np.array([[-1.0, np.nan], [np.inf, -np.inf]], np.float32).reshape(1, 2, 2, 1)
    drawn = IMAGE.draw(values, "")
    assert (drawn.shape, drawn.dtype) == ((1, 2, 2, 3), np.uint8)
    assert drawn[0, :, :, 0].tolist() == [[0, 128], [255, 0]]
    np.testing.assert_array_equal(drawn[..., 0], drawn[..., 2])
    raw = np.random.default_rng(0).integers(256, size=(2, 4, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(IMAGE.draw(raw, ""), raw)
    with pytest.raises(ValueError, match="C 1 or 3"):
        IMAGE.draw(np.zeros([1, 2, 2, 2], np.float32), "")


def test_drawn_text_is_spelled_where_the_alphabet_suffices():
    values = np.eye(3)[[[2, 0], [1, 1]]]
    assert TEXT.draw(values, "abc") == ["ca", "bb"]
    assert TEXT.draw(values, "ab") == ["2 0", "1 1"]


def test_drawn_vectors_are_strips_of_shades():
    drawn = VECTOR.draw(np.array([[-1.0, 0.0, 1.0, 7.0, np.nan]], np.float32), "")
    assert (drawn.shape, drawn.dtype) == ((1, 2, 5, 3), np.uint8)
    for row in drawn[0]:
        assert row[:, 0].tolist() == [0, 128, 255, 255, 128]


def test_drawn_words_are_a_sentence_up_to_its_end():
    words = ("<pad>", "<eos>", "<unk>", "a", "bird")
    tokens = np.array([[3, 0, 4, 1, 3], [2, 4, 3, 3, 3], [1, 4, 4, 4, 4]])
    values = np.eye(5, dtype=np.float32)[tokens]
    assert TEXT.draw(values, words) == ["a bird", "<unk> bird a a a", ""]
    assert TEXT.draw(values[:1], words[:4]) == ["3 0 4 1 3"]
