"""Draw the live view of a real run: `python -m docs.generate.live_view [SECONDS [FILE.svg]]`.

The engine runs on its simulator for SECONDS; the live view as it is then becomes an SVG without fonts of
other hosts.
"""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI

import mdstream
from mdstream.reading.attach import Attachment
from mdstream.views.terminal import draw

WIDTH, HEIGHT = 112, 32
RATE = 1000.0
"""Messages a second of each stream."""
_TITLE = "mdstream run"
_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_FAMILY = re.compile(r"Fira Code, monospace")
_FONTS = "DejaVu Sans Mono, Menlo, Consolas, monospace"


def main(seconds: float, path: Path) -> None:
    """Run the engine for so long and write its live view to `path`."""
    with mdstream.Engine({"simulator": {"rate": RATE}, "stream_url": "", "data_url": ""}) as engine:
        time.sleep(seconds)
        path.write_text(picture(view(engine.attachment)), encoding="utf-8")
    print(f"written: {path}")


def view(run: Attachment) -> RenderableType:
    """Return the live view of a run as it is now."""
    return draw(run, "simulator, made-up data", _console())


def picture(view: RenderableType) -> str:
    """Return a view as SVG that needs nothing from another host."""
    console = _console()
    console.print(view)
    svg = console.export_svg(title=_TITLE, theme=MONOKAI)
    svg = _FAMILY.sub(_FONTS, _FACES.sub("", svg))
    if "url(http" in svg:
        raise ValueError("the picture names another host")
    return svg


def _console() -> Console:
    file = io.StringIO()
    return Console(
        record=True, width=WIDTH, height=HEIGHT, file=file, force_terminal=True, color_system="truecolor"
    )


if __name__ == "__main__":
    _given = dict(enumerate(sys.argv))
    main(float(_given.get(1, 20)), Path(_given.get(2, "docs/images/live.svg")))
