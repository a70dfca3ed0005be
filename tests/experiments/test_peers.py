"""Our bounds against MultiVae's. The comparison needs MultiVae; the code it relies on does not."""

import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiments.peers import bounds, multivae  # noqa: E402
from mmebm_jax.typing import Latents  # noqa: E402

HAS_MULTIVAE = importlib.util.find_spec("multivae") is not None


def test_latents_are_handed_over_stratum_by_stratum():
    shape = (bounds.BATCH, bounds.NUM_SAMPLES, len(bounds.NAMES))
    place = np.arange(np.prod(shape)).reshape(*shape, 1).astype(np.float32)
    shared = place.repeat(bounds.NUM_SHARED, axis=-1)
    private = {
        name: (1000 * (1 + index) + place).repeat(bounds.NUM_PRIVATE, axis=-1)
        for index, name in enumerate(bounds.NAMES)
    }

    def flat(values):  # the shape in which the bound decodes them
        return values.reshape(-1, values.shape[-1])

    drawn = bounds._strata([Latents(flat(shared), {n: flat(w) for n, w in private.items()})])
    assert len(drawn) == 3 * (1 + 3)
    for stratum in range(3):
        z, own, *others = drawn[4 * stratum : 4 * stratum + 4]
        np.testing.assert_array_equal(z, shared[:, :, stratum].swapaxes(0, 1))
        names = [bounds.NAMES[stratum], *(n for i, n in enumerate(bounds.NAMES) if i != stratum)]
        for values, name in zip((own, *others), names, strict=True):
            np.testing.assert_array_equal(values, private[name][:, :, stratum].swapaxes(0, 1))


def test_gaussians_draw_what_they_are_given_and_all_of_it():
    normal = torch.distributions.Normal(torch.zeros(2, 3), torch.ones(2, 3))
    values = [np.full((2, 3), 7, np.float32), np.full((4, 2, 3), 8, np.float32)]
    with bounds._drawing(values):
        assert (normal.rsample() == 7).all()
        assert normal.rsample([4]).shape == (4, 2, 3)
    with pytest.raises(ValueError, match="1 latents fewer"), bounds._drawing(values[:1]):
        pass
    message = r"draws \(2, 3\) where ours drew \(4, 2, 3\)"
    with pytest.raises(ValueError, match=message), bounds._drawing(values[1:]):
        normal.rsample()
    with pytest.raises(ValueError, match="where ours drew none"), bounds._drawing([]):
        normal.rsample()


def test_a_table_shows_the_relative_difference():
    found = [bounds.Compared("MVAE", -200.0, -200.02, "a note")]
    assert found[0].difference == pytest.approx(1e-4)
    last = bounds.table(found).splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")] == [
        "MVAE", "-200", "-200.02", "1.0e-04", "a note",
    ]  # fmt: skip


@pytest.mark.skipif(HAS_MULTIVAE, reason="MultiVae is installed")
def test_without_multivae_one_line_says_how_to_get_it():
    with pytest.raises(ValueError, match="MultiVae is not installed: pip install") as caught:
        multivae.load()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not HAS_MULTIVAE, reason="MultiVae is not installed")
@pytest.mark.parametrize("peer", bounds.PEERS, ids=lambda peer: peer.theirs)
def test_every_bound_is_theirs(peer):
    (found,) = bounds.compare([peer])
    assert found.difference <= bounds.TOLERANCE
