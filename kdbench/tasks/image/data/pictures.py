"""One picture file as RGB, or a sentence that names it."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
from PIL import Image

from kdbench.errors import KDBenchError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")


def opened(path: str) -> Image.Image:
    """A picture as RGB; 16-bit grey keeps its upper 8 bits. What Exif says of its direction is not followed.

    Raises:
        KDBenchError: naming the file, if it is no picture, too large, of another depth, or cannot be read.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would never end
            raise KDBenchError(f"image {path!r} is no file: replace or remove it")
        with Image.open(path) as image:
            return _rgb(image, path)
    except Image.DecompressionBombError as error:
        raise KDBenchError(f"image {path!r} is too large to be one ({error}): make it smaller or remove it") from error
    except OSError as error:
        if error.errno is None:  # PIL's own, about the content
            raise _unfit(path, error) from error
        raise KDBenchError(f"image {path!r} cannot be read ({error.strerror}): see to its disk or rights") from error
    except (ValueError, SyntaxError) as error:
        raise _unfit(path, error) from error


def _rgb(image: Image.Image, path: str) -> Image.Image:
    if image.mode in DEEP_GREY:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise KDBenchError(f"image {path!r} has 32 bits of grey, whose range nobody knows: save it with 8 or 16")
    return image.convert("RGB")


def _unfit(path: str, error: Exception) -> KDBenchError:
    return KDBenchError(f"image {path!r} cannot be read ({error}): replace or remove it")
