"""Long service: thousands of predictions in one process, with broken images among the good ones.

Memory stays flat, no file stays open, each broken image is refused by name, and the others go on.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

from PIL import Image

import mnv2zoo
from attacks.tally import Tally
from mnv2zoo.errors import ImageReadError

FLAT = 1.05  # memory after all predictions, by that after the first tenth of them
MODEL = "mnv2zoo_100_c20"  # whose weights come with the package


def run(tally: Tally, predictions: int = 10_000) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about files that are broken on purpose
        good, bad = _good(Path(folder) / "good"), _bad(Path(folder) / "bad")
        sizes, opened = [], _open_files()
        while tally.tries < predictions:
            for row in mnv2zoo.predict([*good, *bad], MODEL, topk=3, device="cpu"):
                said = row["image"] if isinstance(row, dict) else str(row)
                file = next((file for file in (*good, *bad) if str(file) in said), None)
                if isinstance(row, ImageReadError) and file in bad:
                    tally.refused += 1
                else:
                    tally.check(f"{file}: {row}"[:200], isinstance(row, dict) and file in good)
            sizes.append(_memory())
        expected = len(sizes) * (len(good) + len(bad))
        tally.check(f"{tally.tries} answers about {expected} images", tally.tries == expected)
        warm = sizes[len(sizes) // 10 :]
        # The middle of the last quarter, by the middle of the first: one sample may be taken in the midst of an image.
        quarter = max(1, len(warm) // 4)
        grown = sorted(warm[-quarter:])[quarter // 2] / sorted(warm[:quarter])[quarter // 2]
        tally.check(f"memory grew to {grown:.3f} times", grown < FLAT or predictions < 1000)
        still = _open_files()
        tally.check(f"{still - opened} more open files", still <= opened)


def _memory() -> int:
    """The bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def _good(folder: Path) -> list[Path]:
    folder.mkdir()
    picture = Image.effect_noise((96, 80), 60).convert("RGB")
    saves = {
        "a.jpg": {},
        "b.png": {},
        "c.webp": {},
        "d.gif": {},
        "e.bmp": {},
        "f.tif": {},
        "g.jpg": {"progressive": True},
    }
    for name, options in saves.items():
        picture.save(folder / name, **options)
    Image.new("RGB", (1, 1), "red").save(folder / "one_pixel.png")
    Image.new("L", (1, 1)).save(folder / "one_pixel.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("RGBA").save(folder / "clear.png")
    picture.resize((640, 480)).save(folder / "photo.jpg")
    return sorted(folder.iterdir())


def _bad(folder: Path) -> list[Path]:
    folder.mkdir()
    buffer = io.BytesIO()
    Image.effect_noise((256, 256), 60).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    frame = jpeg.index(b"\xff\xc0")  # the frame header: length, precision, height, width
    contents = {
        "65500x65500.jpg": jpeg[: frame + 5] + struct.pack(">HH", 65500, 65500) + jpeg[frame + 9 :],
        "65500x65500.png": _png(65500, 65500, b""),
        "bomb.png": _png(30_000, 30_000, zlib.compress(bytes(10**7), 9)),
        "65500x65500.gif": b"GIF89a" + struct.pack("<HH", 65500, 65500) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff;",
        "65500x65500.bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 65500, 65500, 1, 24, 0, 0, 1, 1, 0, 0),
        "65500x65500.ppm": b"P6 65500 65500 255\n\0\0\0",
        "thin.png": _png(1, 60_000, zlib.compress(bytes(2 * 60_000))),
        "none.png": _png(0, 0, b""),
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "header_only.jpg": jpeg[:frame],
        "svg.jpg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "pdf.jpg": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file",
        "html.jpg": b"<!doctype html><title>404</title>",
        "zip.jpg": b"PK\x03\x04" + bytes(99),
        "empty.jpg": b"",
        "zeros.jpg": bytes(4096),
        "text.png": b"not an image",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "fifo.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere")
    (folder / "endless.jpg").symlink_to("/dev/zero")
    return sorted(folder.iterdir())


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
