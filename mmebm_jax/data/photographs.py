"""Photographs that ship inside scikit-image and scikit-learn, and digits drawn over them.

Nothing is downloaded. Coffee (Rachel Michetti) and retina (Mikael Häggström) are CC0; rocket
(SpaceX), astronaut and hubble_deep_field (NASA) are in the public domain; china (danielbuechele)
and flower (vultilion) are CC BY 2.0.
"""

import numpy as np

PHOTOGRAPHS = ("coffee", "rocket", "flower", "china", "astronaut")
"""PolyDigits' photographs, ordered so that neighbours differ in colour and texture. None is
mostly mid-grey, on which an inverted digit would be invisible."""

POLYMNIST_PHOTOGRAPHS = ("coffee", "rocket", "flower", "hubble_deep_field", "retina")
"""The photographs for PolyMNIST built from MNIST. China and astronaut would hide MNIST's thin
strokes: too much of them is mid-grey, or has a texture as fine as a stroke."""

_KNOWN = tuple(dict.fromkeys(PHOTOGRAPHS + POLYMNIST_PHOTOGRAPHS))


def photograph(name: str, short_side: int | None = None) -> np.ndarray:
    """Loads a bundled photograph, optionally scaled so that its shorter side is ``short_side``.

    Returns:
        uint8 RGB ``[H, W, 3]``.

    Raises:
        ValueError: ``name`` is in neither `PHOTOGRAPHS` nor `POLYMNIST_PHOTOGRAPHS`.
    """
    if name not in _KNOWN:
        raise ValueError(f"unknown photograph {name!r}: choose one of {', '.join(_KNOWN)}")
    # Imported here, since naming a data set in a configuration needs neither library.
    import skimage.data
    from skimage.transform import resize
    from sklearn.datasets import load_sample_image

    if name in ("china", "flower"):
        image = load_sample_image(f"{name}.jpg")
    else:
        image = getattr(skimage.data, name)()
    if short_side is None:
        return np.array(image)
    scale = short_side / min(image.shape[:2])
    shape = [round(side * scale) for side in image.shape[:2]]
    return np.rint(resize(image, shape, anti_aliasing=True, preserve_range=True)).astype(np.uint8)


def draw_over(rng: np.random.Generator, masks: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Draws each mask over its own random crop of a photograph, by PolyMNIST's rule.

    A pixel has the background's value, or 255 minus that value inside the mask
    (Sutter et al. 2021, https://arxiv.org/abs/2105.02470).

    Args:
        rng: draws the positions of the crops.
        masks: bool ``[N, S, S]``.
        photo: uint8 ``[H, W, 3]`` with H, W >= S.

    Returns:
        uint8 ``[N, S, S, 3]``.
    """
    size = masks.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(photo, (size, size), axis=(0, 1))
    rows = rng.integers(windows.shape[0], size=len(masks))
    columns = rng.integers(windows.shape[1], size=len(masks))
    crops = np.moveaxis(windows[rows, columns], 1, -1)
    return np.where(masks[..., None], 255 - crops, crops)
