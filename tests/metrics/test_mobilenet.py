"""MobileNetV1 against PyTorch's operators, with random weights."""

import numpy as np
import pytest

from mmebm_jax.metrics import mobilenet

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    made = {}
    for name, shape in mobilenet._shapes().items():
        fan_in = np.prod(shape if name.startswith("dw") else shape[:-1])
        fan_in = 9 if name.startswith("dw") else fan_in
        made[f"{name}/w"] = rng.normal(0, np.sqrt(2 / fan_in), shape)
        for kind in ("gamma", "var"):
            made[f"{name}/{kind}"] = rng.uniform(0.8, 1.2, shape[-1])
        for kind in ("beta", "mean"):
            made[f"{name}/{kind}"] = rng.normal(0, 0.1, shape[-1])
    return {name: value.astype(np.float32) for name, value in made.items()}


def _reference(arrays, images):
    """In torch with TensorFlow's padding: at stride 2 none above and left, one below and right."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def unit(x, name, stride, groups=1):
        kernel = torch.from_numpy(arrays[f"{name}/w"])
        if kernel.ndim == 2:
            kernel = kernel.T[:, :, None, None]
        else:
            x = functional.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
            kernel = kernel[:, :, None] if kernel.ndim == 3 else kernel
            kernel = kernel.permute(3, 2, 0, 1)
        x = functional.conv2d(x, kernel, stride=stride, groups=groups)
        gamma, beta, mean, variance = (
            torch.from_numpy(arrays[f"{name}/{kind}"]) for kind in ("gamma", "beta", "mean", "var")
        )
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-3).clip(0, 6)

    x = unit(torch.from_numpy(2 * images - 1).permute(0, 3, 1, 2), "conv0", 2)
    for index, stride in enumerate(STRIDES, 1):
        x = unit(x, f"dw{index}", stride, groups=x.shape[1])
        x = unit(x, f"pw{index}", 1)
    return x.mean((2, 3)).numpy()


def test_features_equal_those_of_pytorch(arrays):
    images = np.random.default_rng(1).uniform(0, 1, (3, 224, 224, 3)).astype(np.float32)
    backbone = mobilenet.mobilenet_backbone(mobilenet.fold(arrays), batch_size=2)
    ours, theirs = backbone.features(images), _reference(arrays, images)
    assert ours.shape == (3, 1024)
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_weights_of_another_network_are_refused(arrays, tmp_path):
    np.savez(tmp_path / "x.npz", **(arrays | {"pw3/w": np.zeros((3, 3), np.float32)}))
    with pytest.raises(ValueError, match=r"x\.npz: .* pw3/w of shape \(3, 3\), not \(128, 128\)"):
        mobilenet.load_mobilenet(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", **arrays)
    assert mobilenet.load_mobilenet(tmp_path / "y.npz")["pw1/kernel"].shape == (1, 1, 32, 64)
