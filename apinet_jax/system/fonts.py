"""Fonts for names in any script."""

import contextlib
from functools import cache
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont


def printable(text: str, size: int = 13) -> tuple[str, ImageFont.FreeTypeFont]:
    """Return a font that has all letters of a text, or the text with escapes for the others.

    Args:
        text: Any text.
        size: Of the font, in pixels.
    """
    # Matplotlib's font has the letters of more languages than Pillow's own.
    default = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    letters = set(map(ord, text)) - {ord("\n")}
    if not letters <= _letters_of(default):
        for path in sorted(font_manager.findSystemFonts()):
            # macOS's font of last resort has a box for every letter.
            if "lastresort" not in path.lower() and letters <= _letters_of(path):
                # Fonts of coloured bitmaps exist in a single size.
                with contextlib.suppress(OSError):
                    return text, ImageFont.truetype(path, size)
    missing = letters - _letters_of(default)
    escapes = {code: chr(code).encode("ascii", "backslashreplace").decode() for code in missing}
    return text.translate(escapes), ImageFont.truetype(default, size)


def use_printable(figure: Any) -> None:
    """Make every text of a Matplotlib figure printable; texts in Matplotlib's font keep theirs."""
    from matplotlib.text import Text

    for one in figure.findobj(
        lambda part: isinstance(part, Text) and not part.get_text().isascii()
    ):
        text, font = printable(one.get_text())
        if text != one.get_text():
            one.set_text(text)
        elif "DejaVu" not in font.path:
            properties = one.get_fontproperties().copy()
            properties.set_file(font.path)
            one.set_fontproperties(properties)


@cache
def _letters_of(path: str) -> frozenset[int]:
    """Return the code points that a font file has; none if it cannot be read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
