import numpy as np
import pytest
from PIL import Image

from gen3r_core.errors import InputError, OutputError
from gen3r_core.io.images import list_images, read_image, read_images, write_image

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RGB = np.stack([GREY, GREY + 5, GREY + 10], axis=-1)


def save(path, array, mode=None, **options):
    Image.fromarray(array).convert(mode or Image.fromarray(array).mode).save(path, **options)
    return path


def test_rgb(tmp_path):
    image = read_image(save(tmp_path / "a.png", RGB))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RGB)


def test_alpha_is_dropped(tmp_path):
    rgba = np.concatenate([RGB, np.zeros((3, 4, 1), np.uint8)], axis=-1)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), RGB)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_is_expanded(tmp_path, mode):
    np.testing.assert_array_equal(
        read_image(save(tmp_path / "a.png", GREY, mode)), np.repeat(GREY[..., None], 3, axis=-1)
    )


def test_palette(tmp_path):
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", GREY, "P")), np.repeat(GREY[..., None], 3, -1))


def test_sixteen_bits(tmp_path):
    deep = np.array([[0, 257, 128, 129], [65535, 65535 - 128, 65535 - 129, 1000]], dtype=np.uint16)
    image = read_image(save(tmp_path / "a.png", deep))
    assert image[..., 0].tolist() == [[0, 1, 0, 1], [255, 255, 254, 4]]
    assert (image == image[..., :1]).all()


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise for display
    path = save(tmp_path / "a.png", RGB, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(RGB, -1))


def test_jpeg(tmp_path):
    flat = np.full((16, 24, 3), 90, np.uint8)
    assert np.abs(read_image(save(tmp_path / "a.JPG", flat, format="JPEG")).astype(int) - 90).max() <= 2


def test_several_images(tmp_path):
    paths = [save(tmp_path / f"{i}.png", RGB + i) for i in range(3)]
    images = read_images(paths[::-1])
    assert images.shape == (3, 3, 4, 3)
    np.testing.assert_array_equal(images[0], RGB + 2)


def test_different_sizes_are_named(tmp_path):
    first, second = save(tmp_path / "a.png", RGB), save(tmp_path / "b.png", RGB[:2])
    with pytest.raises(InputError, match=r"a\.png has \(3, 4\) and .*b\.png has \(2, 4\)"):
        read_images([first, first, second])
    with pytest.raises(InputError, match="no image files"):
        read_images([])


def test_listing_is_in_the_order_of_numbers(tmp_path):
    names = ["frame_10.png", "frame_9.PNG", "frame_009b.jpeg", "a.Jpg", "frame_100.png"]
    for name in [*names, "notes.txt", ".hidden.png"]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    found = [path.name for path in list_images(tmp_path)]
    assert found == ["a.Jpg", "frame_9.PNG", "frame_009b.jpeg", "frame_10.png", "frame_100.png"]


def test_listing_errors(tmp_path):
    with pytest.raises(InputError, match=r"no image in this folder \(\.png"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        list_images(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file and not a folder"):
        list_images(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not an image"), (b"hello", "not an image"), (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "not an image|damaged")],
)
def test_what_is_no_image(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.png: .*({message})"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_damaged(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"a\.{suffix}: this image file is damaged or incomplete"):
        read_image(path)


def test_missing_folder_and_huge(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"b\.png: there is no such image file"):
        read_image(tmp_path / "b.png")
    with pytest.raises(InputError, match="this is a folder"):
        read_image(tmp_path)
    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(InputError, match="too large"):
        read_image(path)


def test_floating_point_images_have_no_range(tmp_path):
    path = save(tmp_path / "a.tif", GREY.astype(np.float32))
    with pytest.raises(InputError, match="convert it to 8 or 16 bits"):
        read_image(path)


def test_writing(tmp_path):
    write_image(tmp_path / "a.png", RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"\[H, W, 3\] uint8, got \(3, 4\) uint8"):
        write_image(tmp_path / "a.png", GREY)
    with pytest.raises(OutputError, match=r"missing/a\.png: No such file"):
        write_image(tmp_path / "missing" / "a.png", RGB)
    assert list(tmp_path.iterdir()) == []


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match="may not be read; check its permissions"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(InputError, match="this folder cannot be read: Permission denied"):
        list_images(tmp_path)
