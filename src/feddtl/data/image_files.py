"""Files of images by their names."""

from __future__ import annotations

import os
from pathlib import Path

from feddtl.config.names import composed

_READ = """
.jpg .jpeg .jpe .jfif .mpo .png .apng .gif .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm .avif .avifs .jp2 .j2k
.jpc .j2c .jpf .jpx
"""
# Images of other formats: those of phones and cameras, of programs, of medicine, and what else Pillow may open.
_UNREAD = """
.heic .heif .hif .heics .heifs .jxl .jxr .wdp .bpg .flif .qoi .exr .hdr .dng .cr2 .cr3 .crw .nef .nrw .arw .srf
.sr2 .orf .rw2 .raf .pef .srw .raw .3fr .iiq .x3f .erf .kdc .dcr .mrw .rwl .svg .svgz .psd .psb .xcf .ai .eps
.ps .wmf .emf .tga .ico .cur .icns .pcx .dcx .sgi .rgb .rgba .dds .xbm .xpm .ras .fits .fit .pfm .pam .dcm
.dicom .nii .nrrd .mha
"""
IMAGE_SUFFIXES, UNREAD_SUFFIXES = frozenset(_READ.split()), frozenset(_UNREAD.split())
READ_FORMATS = "JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, AVIF and JPEG 2000"
CONVERT = "Convert it to JPEG or PNG, for example with ImageMagick: magick IMAGE.heic IMAGE.jpg"
# Written by systems beside the user's own files; so are names that begin with a dot.
_OF_SYSTEMS = frozenset(
    ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "system volume information", "$recycle.bin")
)


def visible(folder: Path) -> list[Path]:
    """What a folder contains, in the alphabetical order of names that is the same on every system.

    Names that begin with a dot, and files and folders that systems write, are left out.
    """
    found = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    return sorted(found, key=lambda entry: (composed(entry.name), entry.name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's own."""
    return name.startswith(".") or name.casefold() in _OF_SYSTEMS


def contains_images(path: Path) -> bool:
    """Whether a file, or a folder with its sub-folders, may contain images, judged only by file names.

    Raises:
        OSError: A folder cannot be read.
    """
    if path.is_file():
        return True
    suffixes, seen = {*IMAGE_SUFFIXES, ".parquet"}, set()
    for folder, below, names in os.walk(path, onerror=_fail, followlinks=True):
        if any(Path(name).suffix.lower() in suffixes for name in names):
            return True
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a folder above
            below.clear()
        seen.add(real)
    return False


def _fail(error: OSError) -> None:
    raise error
