"""A judge of pairs without classes: retrieval is exact, and towers learn what pairs share."""

import itertools

import jax
import numpy as np
import pytest

from mmebm_jax.metrics import matching


def by_enumeration(queries, candidates, pool):
    """The mean over all pools, with random guesses among ties."""
    scores = queries @ candidates.T
    shares = []
    for own in range(len(queries)):
        others = [other for other in range(len(queries)) if other != own]
        for chosen in itertools.combinations(others, pool - 1):
            rivals = scores[own, list(chosen)]
            best = not (rivals > scores[own, own]).any()
            shares.append(best / (1 + (rivals == scores[own, own]).sum()))
    return np.mean(shares)


@pytest.mark.parametrize("pool", [2, 3, 7, 100])
def test_retrieval_is_the_mean_over_all_pools(pool):
    rng = np.random.default_rng(pool)
    queries, candidates = rng.integers(-1, 2, (2, 7, 3)).astype(float)  # many ties
    expected = by_enumeration(queries, candidates, min(pool, 7))
    assert matching.retrieval(queries, candidates, pool) == pytest.approx(expected, rel=1e-9)


def test_retrieval_of_perfect_and_of_blind_judges():
    vectors = np.eye(150)
    assert matching.retrieval(vectors, vectors) == pytest.approx(1)
    # One wrong candidate scores higher and all others tie: a guess, if it is not in the pool.
    rolled = matching.retrieval(vectors, np.roll(vectors, 1, axis=0))
    assert rolled == pytest.approx((1 - 99 / 149) / 100)
    assert matching.retrieval(np.zeros([150, 2]), np.ones([150, 2])) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="give the vectors of the same two examples or more"):
        matching.retrieval(vectors, vectors[:3])


def pairs(rng, count):
    """Pictures whose halves have two shades, and texts that name both."""
    shades = rng.integers(4, size=(count, 2))
    pictures = np.repeat(np.repeat(shades[:, None, :, None], 8, axis=1), 4, axis=2) / 1.5 - 1
    noise = rng.normal(0, 0.05, (count, 8, 8, 1))
    texts = np.eye(8)[np.stack([shades[:, 0], 4 + shades[:, 1]], axis=1)]
    return {"picture": (pictures + noise).astype(np.float32), "text": texts.astype(np.float32)}


def test_towers_find_what_two_modalities_share():
    kinds = {"picture": "image", "text": "text"}
    settings = matching.Settings(steps=150, batch_size=32)
    params = matching.train_towers(jax.random.key(0), kinds, pairs, settings)
    test = pairs(np.random.default_rng(1), 200)
    vectors = {name: matching.embed(kinds[name], params[name], test[name]) for name in kinds}
    np.testing.assert_allclose(np.linalg.norm(vectors["text"], axis=1), 1, atol=1e-4)
    # With 16 possible texts and a pool of 16, about two are equal: half or more are right.
    for first, second in (("picture", "text"), ("text", "picture")):
        assert matching.retrieval(vectors[first], vectors[second], 16) > 0.5
        shuffled = np.roll(vectors[second], 1, axis=0)
        assert matching.retrieval(vectors[first], shuffled, 16) < 0.15
    with pytest.raises(ValueError, match="name two modalities of kinds among"):
        matching.train_towers(jax.random.key(0), {"picture": "image"}, pairs, settings)
