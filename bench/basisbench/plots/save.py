"""Save pictures: the same bytes each time, small PNG files, fonts that journals accept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt32

from basisbench.errors import BasisBenchError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

FORMATS = ("png", "svg", "pdf")
"""Types of file that pictures are saved as."""


def refuse_name(path: Path | None, option: str) -> None:
    """Refuse a file that no picture can be saved as, before work is done for it.

    Args:
        path: the file; None where none is asked for.
        option: by which it was asked for, for the message.

    Raises:
        BasisBenchError: its name ends in something else than a type, or its folder does not exist.
    """
    if path is None:
        return
    if path.suffix.removeprefix(".") not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise BasisBenchError(f"{option} {path}: expected a name that ends in {endings}")
    if not path.resolve().parent.is_dir():
        raise BasisBenchError(f"{option} {path}: there is no folder {path.resolve().parent}")


def save_figure(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Save a figure, the same bytes each time; a PNG gets a palette of 256 colours, a third of the bytes.

    A PDF holds its fonts as TrueType, so that text can be searched and journals accept it; an SVG holds text as paths,
    so that it looks the same where the font is missing.

    Args:
        figure: what to save.
        path: the file; its suffix, one of `FORMATS` with a dot, decides the type.
        dpi: dots per inch of a PNG.
    """
    if path.suffix != ".png":
        import matplotlib

        look: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "basisbench"}
        dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
        with matplotlib.rc_context(look):
            figure.savefig(path, dpi=dpi, metadata=dates.get(path.suffix))
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # `savefig` would draw the figure a second time to lay it out, and pack it as a PNG that is unpacked again here.
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.frombuffer(canvas.buffer_rgba(), dtype=np.uint32)  # type: ignore[no-untyped-call]
    # Level 7 takes a sixth of the time of level 9, for 6% more bytes.
    with_palette(pixels, canvas.get_width_height()).save(path, compress_level=7, dpi=(dpi, dpi))


def with_palette(pixels: UInt32[np.ndarray, " pixel"], size: tuple[int, int]) -> Image.Image:
    """Reduce a picture to 256 colours by median cut, spending no time on its background.

    The median cut divides the colours where half of the pixels lie on either side. While the background has more pixels
    than all other colours together it does not matter how many more: the same colours are chosen, pixel by pixel.

    Args:
        pixels: RGBA, four bytes in the order of memory, row by row; the first one is of the background.
        size: width and height in pixels.
    """
    from PIL import Image

    def reduce(part: UInt32[np.ndarray, " part"], shape: tuple[int, int]) -> Image.Image:
        image = Image.frombuffer("RGBA", shape, part.tobytes(), "raw", "RGBA", 0, 1)
        return image.convert("RGB").quantize(256, dither=Image.Dither.NONE)

    drawn = pixels != pixels[0]
    count = int(drawn.sum())
    if 2 * count >= len(pixels):
        return reduce(pixels, size)
    background = np.full(count + 1, pixels[0])
    part = reduce(np.concatenate([background, pixels[drawn]]), (2 * count + 1, 1))
    chosen = np.frombuffer(part.tobytes(), dtype=np.uint8)
    indices = np.full(len(pixels), chosen[0])
    indices[drawn] = chosen[count + 1 :]
    image = Image.frombuffer("P", size, indices.tobytes(), "raw", "P", 0, 1)
    image.putpalette(part.getpalette() or [])
    return image
