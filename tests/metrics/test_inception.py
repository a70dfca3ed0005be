"""FID's network against PyTorch's operators, with random weights."""

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mmebm_jax.data.torch_file import read_state_dict
from mmebm_jax.metrics import inception
from mmebm_jax.metrics.frechet import frechet_distance

SIZES = ((28, 28), (64, 64), (40, 56), (320, 300))
FEW = 2  # pictures per size


def _pictures(seed):
    """Smooth pictures with some noise, of several sizes."""
    rng = np.random.default_rng(seed)
    pictures = []
    for height, width in SIZES:
        coarse = rng.uniform(0, 255, (FEW, 5, 5, 3))
        rows, columns = np.arange(height) * 5 // height, np.arange(width) * 5 // width
        blocks = coarse[:, rows][:, :, columns]
        pictures.append(np.clip(blocks + rng.normal(0, 20, blocks.shape), 0, 255).astype(np.uint8))
    return pictures


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """(ours, PyTorch's) for each size, with the same weights loaded from a file."""
    torch = pytest.importorskip("torch")
    from tests.metrics import inception_reference

    network = inception_reference.random_reference()
    file = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict(), file, _use_new_zipfile_serialization=False)
    variables = inception.inception_variables(read_state_dict(file))
    backbone = inception.inception_backbone(variables, batch_size=FEW)
    pairs = []
    for pictures in _pictures(0):
        unit = torch.from_numpy(pictures / np.float32(255)).permute(0, 3, 1, 2)
        pairs.append((backbone.features(pictures), network(unit).numpy()))
    return pairs


@pytest.mark.parametrize("index", range(len(SIZES)), ids=lambda i: str(SIZES[i]))
def test_features_equal_those_of_pytorch(features, index):
    ours, theirs = features[index]
    assert ours.shape == (FEW, inception.NUM_FEATURES)
    # Otherwise constant features would agree as well.
    assert theirs.std(0).mean() > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_distances_equal_those_of_pytorch(features):
    # A random projection, since the covariance of eight pictures has low rank anyway.
    turn = np.random.default_rng(0).normal(size=(inception.NUM_FEATURES, 64)) / 8

    def distance(which):
        stats = []
        for pair in ((0, 1), (2, 3)):
            projected = np.concatenate([features[i][which] for i in pair]) @ turn
            stats.append((projected.mean(0), np.cov(projected.T)))
        return frechet_distance(*stats)

    ours, theirs = distance(0), distance(1)
    assert theirs > 0.01
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"hold Conv2d_1a_3x3\.bn.* of shape None, not \(32,\)"):
        inception.inception_variables({})


def test_a_file_that_is_not_the_one_meant_is_refused_by_its_hash(tmp_path):
    path = tmp_path / inception.WEIGHTS_FILE
    with pytest.raises(FileNotFoundError, match="get https://"):
        inception.load_inception(path)
    path.write_bytes(b"another file")
    with pytest.raises(
        ValueError, match=r"SHA-256 .* is not pt_inception.*6726825d…\): replace it by https"
    ):
        inception.load_inception(path)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A stand-in for the published file, served under its name from a local folder."""
    content = b"the weights"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / inception.WEIGHTS_FILE).write_bytes(content)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "site")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{inception.WEIGHTS_FILE}"
        monkeypatch.setattr(inception, "WEIGHTS_URL", url)
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setattr(inception, "_SHA256_PREFIX", digest[:8])
        yield tmp_path / "site" / inception.WEIGHTS_FILE
        server.shutdown()


def test_the_weights_are_fetched_once(published, tmp_path):
    path = inception.fetch_inception(tmp_path / "a" / "b")
    assert path.read_bytes() == published.read_bytes()
    published.unlink()
    assert inception.fetch_inception(tmp_path / "a" / "b") == path
    with pytest.raises(OSError, match=r"cannot be downloaded .*: put http"):
        inception.fetch_inception(tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_what_was_fetched_is_checked(published, tmp_path):
    published.write_bytes(b"changed on the way")
    with pytest.raises(ValueError, match="replace it by"):
        inception.fetch_inception(tmp_path)
