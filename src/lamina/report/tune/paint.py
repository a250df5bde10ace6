"""How domains look: a colour and a texture each, so that twelve can be told apart, also in grey.

A fill is defined once a page (`defs`) and used by name; colours live in `style.css`. Twelve
colours, four textures: the first 48 domains all differ.
"""

from markupsafe import Markup

from lamina.report.svg import label, tag

COLOURS, TEXTURES = 12, 4
MOST = COLOURS * TEXTURES


def colour(place: int) -> str:
    """The class that sets the colour of a domain."""
    return f"d{place % COLOURS}"


def fill(place: int) -> str:
    """What to write as `fill` for an area of a domain."""
    return f"url(#domain-{place % MOST})"


def defs(count: int) -> Markup:
    """The fills of the first `count` domains, in a drawing that takes no room."""
    patterns = [_pattern(place) for place in range(min(count, MOST))]
    return tag("svg", tag("defs", *patterns), class_="defs", aria_hidden="true")


def swatch(place: int) -> Markup:
    """A small square of a domain's fill, to stand before its name."""
    square = tag("rect", width=14, height=14, rx=2, fill=fill(place))
    return tag("svg", square, viewBox="0 0 14 14", class_="swatch", aria_hidden="true")


def _pattern(place: int) -> Markup:
    texture = (place + place // COLOURS) % TEXTURES
    marks = {
        0: [],
        1: [tag("path", d="M-2 2L2 -2M0 8L8 0M6 10L10 6", class_="texture")],
        2: [tag("circle", cx=2, cy=2, r=1.1, class_="dots"),
            tag("circle", cx=6, cy=6, r=1.1, class_="dots")],
        3: [tag("path", d="M0 2H8M0 6H8", class_="texture")],
    }[texture]  # fmt: skip
    return tag(
        "pattern",
        tag("rect", width=8, height=8, class_="fill"),
        *marks,
        id=f"domain-{place}",
        width=8,
        height=8,
        patternUnits="userSpaceOnUse",
        class_=colour(place),
    )


def brief(name: str, most: int = 22) -> str:
    """A name that fits beside a picture."""
    return name if len(name) <= most else name[: most - 1] + "…"


def spread(wanted: list[float], *, gap: float, low: float, high: float) -> list[float]:
    """Heights for labels near the ones wanted (rising), `gap` apart where there is room."""
    gap = min(gap, (high - low) / max(1, len(wanted) - 1)) if len(wanted) > 1 else gap
    placed: list[float] = []
    for value in wanted:
        placed.append(max(value, placed[-1] + gap if placed else low))
    limit = high
    for place in reversed(range(len(placed))):
        placed[place] = max(low, min(placed[place], limit))
        limit = placed[place] - gap
    return placed


def axis_label(x: float, y: float, text: str) -> Markup:
    return label(x, y, text, "middle", "axis")
