"""PolyMNIST's published classifiers against PyTorch's operators, with random weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.metrics import polymnist_classifier
from mmebm_jax.metrics.polymnist_classifier import FILE, load_classifiers

torch = pytest.importorskip("torch")


def _network():
    nn = torch.nn
    layers = [
        *(nn.Conv2d(3, 10, 4, 2, 1), nn.Dropout2d(0.5), nn.ReLU()),
        *(nn.Conv2d(10, 20, 4, 2, 1), nn.Dropout2d(0.5), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(980, 128), nn.Dropout(0.5), nn.ReLU(), nn.Linear(128, 10)),
    ]
    network = nn.Module()
    network.encoder = nn.Sequential(*layers)
    return network.eval()


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    networks = {name: _network() for name in ("m0", "m1")}
    for name, network in networks.items():
        torch.save(network.state_dict(), tmp_path / FILE.format(name))
    return tmp_path, networks


def test_logits_equal_those_of_pytorch(folder):
    path, networks = folder
    images = np.random.default_rng(0).uniform(-1, 1, (5, 28, 28, 3)).astype(np.float32)
    weights = load_classifiers(path, ["m0", "m1"])
    for name, network in networks.items():
        unit = torch.from_numpy((images.transpose(0, 3, 1, 2) + 1) / 2)
        expected = network.encoder(unit).detach().numpy()
        assert expected.std(0).max() > 1e-3
        found = polymnist_classifier.logits(weights[name], jnp.asarray(images))
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_other_files_are_refused(folder):
    path, networks = folder
    with pytest.raises(FileNotFoundError, match=r"clf_m2 does not exist: give the folder"):
        load_classifiers(path, ["m0", "m2"])
    state = networks["m0"].state_dict()
    torch.save(state | {"encoder.10.weight": torch.zeros(9, 128)}, path / FILE.format("m1"))
    with pytest.raises(ValueError, match=r"m1 holds encoder\.10\.weight of shape \(9, 128\)"):
        load_classifiers(path, ["m1"])
    del state["encoder.0.bias"]
    torch.save(state, path / FILE.format("m1"))
    with pytest.raises(ValueError, match=r"encoder\.0\.bias of shape None, not \(10,\)"):
        load_classifiers(path, ["m1"])
    (path / FILE.format("m1")).write_bytes(b"none")
    with pytest.raises(ValueError, match="is not a PyTorch"):
        load_classifiers(path, ["m1"])
