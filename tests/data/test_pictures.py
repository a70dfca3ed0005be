"""A picture is read the way it looks, whatever its file says."""

import numpy as np
import pytest
from PIL import Image

from mmebm_jax.data.pictures import read_picture

SIZE = 8


def stored(tmp_path, image, name="picture.png", **options):
    image.save(tmp_path / name, **options)
    return read_picture(tmp_path / name, SIZE, 3)[0]


def test_every_mode_of_the_same_picture_is_the_same(tmp_path):
    shades = np.linspace(0, 255, SIZE).astype(np.uint8)
    grey = np.broadcast_to(shades, (SIZE, SIZE))
    expected = np.repeat(grey[..., None], 3, axis=-1)
    eight = Image.fromarray(np.ascontiguousarray(grey))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    for image in (eight, deep, eight.convert("RGB"), eight.convert("RGBA"), eight.convert("P")):
        np.testing.assert_array_equal(stored(tmp_path, image), expected)
    assert stored(tmp_path, eight).dtype == np.uint8
    np.testing.assert_array_equal(
        read_picture(tmp_path / "picture.png", SIZE, 1)[0], expected[..., :1]
    )
    found = stored(tmp_path, deep, "deep.tif")
    np.testing.assert_array_equal(found, expected)


def test_transparency_lies_over_white(tmp_path):
    clear = Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 0))
    half = Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 128))
    assert (stored(tmp_path, clear) == 255).all()
    np.testing.assert_allclose(stored(tmp_path, half)[0, 0], [255, 127, 127], atol=1)
    palette = Image.new("P", (SIZE, SIZE), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert (stored(tmp_path, palette, transparency=0) == 255).all()
    assert (stored(tmp_path, Image.new("LA", (SIZE, SIZE), (0, 0))) == 255).all()


def test_a_camera_that_was_turned_is_turned_back(tmp_path):
    upright = np.zeros([16, 16, 3], np.uint8)
    upright[:8] = 200  # bright at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is at the right: rotate by 90 degrees
    turned = Image.fromarray(np.rot90(upright).copy())
    found = stored(tmp_path, turned, "turned.jpg", exif=exif, quality=100)
    assert found[:3].mean() > 190
    assert found[5:].mean() < 10


def test_the_centre_square_is_taken_and_resized_smoothly(tmp_path):
    wide = np.zeros([64, 192, 3], np.uint8)
    wide[:, 64:128:2] = 255  # one-pixel stripes in the centre square, with a grey mean
    found = stored(tmp_path, Image.fromarray(wide))
    assert found.shape == (SIZE, SIZE, 3)
    np.testing.assert_allclose(found[:, 1:-1], 127, atol=6)
    assert not read_picture(tmp_path / "picture.png", SIZE, 3)[1]
    assert read_picture(tmp_path / "picture.png", 128, 3)[1]  # smaller than requested


@pytest.mark.parametrize("cut", [0, 20, 300])
def test_what_is_cut_short_is_refused_with_its_name(tmp_path, cut):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as a picture") as caught:
        read_picture(tmp_path / "cut.png", SIZE, 3)
    assert "\n" not in str(caught.value)


def test_what_is_no_picture_of_shades_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png is missing"):
        read_picture(tmp_path / "gone.png", SIZE, 3)
    Image.fromarray(np.ones([SIZE, SIZE], np.float32)).save(tmp_path / "floats.tif")
    with pytest.raises(ValueError, match=r"floats\.tif .*values are floats"):
        read_picture(tmp_path / "floats.tif", SIZE, 3)
    with pytest.raises(ValueError, match=r"cannot be read"):
        read_picture(tmp_path, SIZE, 3)
