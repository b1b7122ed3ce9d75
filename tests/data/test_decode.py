"""Odd metadata, depths and modes, sizes and formats of single images."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from small_images import picture, png_bytes

from feddtl.data import decode
from feddtl.data.decode import EncodedImage, decode_rgb, upright_rgb
from feddtl.errors import DataError

# pytest shows warnings that a user does not see.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
ORIENTATION_6 = (0x112, 3, 1, struct.pack("<HH", 6, 0))


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(*entries, data=b""):
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + data


ODD = {
    "resolution as text": exif(ORIENTATION_6, (0x11A, 2, 3, b"72\0")),
    "width as text": exif(ORIENTATION_6, (0x100, 2, 3, b"7x\0")),
    "a ratio over zero": exif(ORIENTATION_6, (0x131, 5, 1, struct.pack("<I", 38)), data=struct.pack("<II", 7, 0)),
    "a value beyond the end, before": exif((0x10F, 2, 900, struct.pack("<I", 4000)), ORIENTATION_6),
    "a type that does not exist": exif((0x10F, 99, 1, b"abc"), ORIENTATION_6),
    "more entries than there are": exif(ORIENTATION_6).replace(b"\x01\0\x12\x01", b"\xff\xff\x12\x01"),
    "a directory of a camera that is no directory": exif(ORIENTATION_6, (0x8769, 4, 1, struct.pack("<I", 9999))),
}


class TestExif:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("odd", ODD)
    def test_an_odd_tag_refuses_no_image_and_hides_no_orientation(self, odd, kind):
        assert decode_rgb(saved(Image.new("RGB", (7, 9)), kind, exif=ODD[odd]), "here").size == (9, 7)

    @pytest.mark.parametrize(
        "broken",
        [
            b"Exif\0\0",
            b"Exif\0\0II*\0",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
            b"Exif\0\0II*\0\xff\xff\xff\x7f\0\0\0\0",
            exif((0x112, 3, 1, struct.pack("<HH", 9, 0))),
            exif((0x112, 2, 2, b"6\0")),
        ],
    )
    def test_without_a_readable_orientation_the_image_is_upright(self, broken):
        assert decode_rgb(saved(Image.new("RGB", (7, 9)), "JPEG", exif=broken), "here").size == (7, 9)

    def test_random_damage_refuses_no_image(self):
        rng = np.random.default_rng(0)
        whole = Image.Exif()
        whole.update({0x112: 6, 0x10F: "maker", 0x11A: 72.0, 0x131: "software"})
        for _ in range(300):
            data = bytearray(whole.tobytes())
            for at in rng.integers(6, len(data), 4):
                data[at] = rng.integers(256)
            assert set(decode_rgb(saved(Image.new("RGB", (7, 9)), "JPEG", exif=bytes(data)), "here").size) == {7, 9}


def grey_16(*values):
    return Image.fromarray(np.array(values, np.uint16).reshape(1, -1))


def pgm(largest, *values):
    return f"P5 {len(values)} 1 {largest}\n".encode() + np.array(values, ">u2").tobytes()


class TestDepth:
    @pytest.mark.parametrize(
        ("encoded", "expected"),
        [
            (saved(grey_16(0, 10240, 65535)), [0, 40, 255]),
            (saved(grey_16(0, 0, 0)), [0, 0, 0]),
            (saved(grey_16(0, 10240, 65535), "TIFF"), [0, 40, 255]),
            (saved(grey_16(0, 10240, 65535), "JPEG2000"), [0, 40, 255]),
            (saved(grey_16(0, 10240, 65535), "TIFF", tiffinfo={262: 0}), [255, 215, 0]),
            (saved(grey_16(0, 640, 4095), "TIFF", tiffinfo={281: 4095}), [0, 40, 255]),
            (pgm(65535, 0, 10240, 65535), [0, 40, 255]),
            (pgm(4095, 0, 640, 4095), [0, 40, 255]),
        ],
        ids=[
            "PNG",
            "black",
            "TIFF",
            "JPEG 2000",
            "TIFF, white is 0",
            "TIFF, 12 bits stated",
            "PGM",
            "PGM, 12 bits stated",
        ],
    )
    def test_grey_of_16_bits_uses_the_range_of_8(self, encoded, expected):
        image = decode_rgb(encoded, "here")
        assert image.mode == "RGB"
        assert [image.getpixel((x, 0)) for x in range(3)] == [(value,) * 3 for value in expected]

    @pytest.mark.parametrize(
        "encoded",
        [
            saved(grey_16(0, 640, 4095)),
            saved(grey_16(0, 640, 4095), "TIFF"),
            pgm(65535, 0, 640, 4095),
            b"P6 1 1 65535\n" + np.array([4095, 4095, 0], ">u2").tobytes(),
        ],
        ids=["PNG", "TIFF", "PGM", "PPM"],
    )
    def test_twelve_bits_in_sixteen_are_refused(self, encoded):
        """They would be nearly black: 4095 of 65535."""
        with pytest.raises(DataError, match=r"shelf/1\.png has 16-bit values.*below 4096.*nearly black") as refused:
            decode_rgb(encoded, "shelf/1.png")
        assert "by 16" in refused.value.hint

    def test_colours_of_16_bits(self):
        encoded = b"P6 1 1 65535\n" + np.array([65535, 10240, 0], ">u2").tobytes()
        assert decode_rgb(encoded, "here").getpixel((0, 0)) == (255, 40, 0)

    @pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "LA", "RGBA"])
    def test_twelve_bits_in_colours_of_sixteen(self, colour, channels):
        """Pillow itself keeps the upper 8 bits of such a PNG, and cannot write one."""

        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        def encoded(value):
            row = b"\0" + np.full(channels, value, ">u2").tobytes()
            header = struct.pack(">IIBBBBB", 1, 1, 16, colour, 0, 0, 0)
            return b"\x89PNG\r\n\x1a\n" + b"".join(
                (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b""))
            )

        assert decode_rgb(encoded(10240), "here").getpixel((0, 0)) == (40, 40, 40)
        with pytest.raises(DataError, match="nearly black"):
            decode_rgb(encoded(4095), "here")

    def test_32_bits_have_no_known_range(self):
        for values in (np.int32([[70000]]), np.float32([[0.5]])):
            with pytest.raises(DataError, match="32-bit"):
                decode_rgb(saved(Image.fromarray(values), "TIFF"), "here")

    @pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK", "YCbCr", "RGBX", "PA", "RGBa"])
    def test_every_mode_becomes_rgb(self, mode):
        step = {"PA": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
        converted = upright_rgb(Image.new("RGB", (2, 2), "white").convert(step).convert(mode), "x")
        assert (converted.mode, converted.getpixel((0, 0))) == ("RGB", (255, 255, 255))

    def test_a_palette_with_transparency(self):
        image = Image.new("P", (2, 1), 1)
        image.putpalette([9, 9, 9, 250, 0, 0])
        assert decode_rgb(saved(image, transparency=1), "here").getpixel((0, 0)) == (250, 0, 0)

    def test_colours_without_a_conversion(self):
        with pytest.raises(DataError, match="mode La") as refused:
            upright_rgb(Image.new("La", (2, 2)), "here")
        assert "RGB or grey" in refused.value.hint


class TestFormats:
    def test_a_program_is_not_run(self, monkeypatch):
        """An EPS is a program, which Pillow gives to Ghostscript."""
        from PIL import EpsImagePlugin

        monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("ran Ghostscript"))
        with pytest.raises(DataError, match="another format than JPEG") as refused:
            decode_rgb(saved(picture(9), "EPS"), "logo.jpg")
        assert "intact copy" in refused.value.hint

    @pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "PDF"])
    def test_other_formats_stay_closed(self, kind):
        with pytest.raises(DataError, match="another format than JPEG"):
            decode_rgb(saved(picture(9), kind), "here")

    @pytest.mark.parametrize(
        "kind", ["JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000"]
    )
    def test_formats_that_are_read(self, kind):
        assert decode_rgb(saved(picture(99), kind), "here").size == (6, 4)

    @pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
    def test_heic_has_a_next_step(self, brand):
        with pytest.raises(DataError, match="here is in HEIC format") as refused:
            decode_rgb(b"\0\0\0\x18ftyp" + brand + bytes(20), "here")
        assert "Convert it to JPEG" in refused.value.hint

    def test_an_opened_image_that_is_damaged_is_named(self):
        """As `predict` receives it: Pillow reads the pixels only when they are used."""
        whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
        with pytest.raises(DataError, match="Cannot read the image at position 3"):
            upright_rgb(Image.open(io.BytesIO(whole[:2000])), "at position 3")

    def test_an_empty_file(self):
        with pytest.raises(DataError, match="it is empty"):
            decode_rgb(b"", "here")


class TestPixels:
    @pytest.mark.parametrize("size", [(15000, 13000), (20000, 20000)])
    def test_a_bomb_is_refused_by_its_size(self, size):
        """A bit per pixel: 24 kB of zeros on disk, gigabytes in memory. The second is beyond Pillow's own limit."""
        with pytest.raises(DataError, match="at most 178,956,970 are read") as refused:
            decode_rgb(b"P4 %d %d\n" % size, "bomb.pbm")
        assert "smaller" in refused.value.hint
        assert "intact" not in refused.value.hint

    def test_the_limit_itself(self, monkeypatch):
        monkeypatch.setattr(decode, "MOST_PIXELS", 24)
        assert decode_rgb(png_bytes(picture(9, size=(6, 4))), "here").size == (6, 4)
        with pytest.raises(DataError, match="5 x 5 pixels"):
            decode_rgb(png_bytes(picture(9, size=(5, 5))), "here")


@pytest.mark.parametrize("ask", [EncodedImage.decode, EncodedImage.digest])
def test_what_the_system_says_of_a_file_has_its_own_hint(tmp_path, ask):
    with pytest.raises(DataError, match=r"gone\.png: No such file") as refused:
        ask(EncodedImage(tmp_path / "gone.png", str(tmp_path / "gone.png")))
    assert "Restore" in refused.value.hint
    with pytest.raises(DataError, match="Is a directory"):
        ask(EncodedImage(tmp_path, str(tmp_path)))
