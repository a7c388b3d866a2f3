"""The documentation's diagrams, as SVG that is inserted into its pages.

Colors come from the page: the classes are in docs/stylesheets/extra.css, so that a drawing follows the page from
light to dark. Lengths are in the units of each drawing's view box.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from catalog import TIMES

from mnv2zoo import architecture
from mnv2zoo.architecture import Bottleneck, Config

POINTWISE = f"1{TIMES}1 convolution"
ACTIVATIONS = {"relu6": "ReLU6", "relu": "ReLU"}
WIDTH = 400  # of every drawing, so that its text is legible on a phone


def svg(name: str, height: float, title: str, description: str, parts: Iterator[str]) -> str:
    """A drawing with what a screen reader says of it."""
    start = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{name}-title {name}-desc">'
    about = f'<title id="{name}-title">{escape(title)}</title>\n<desc id="{name}-desc">{escape(description)}</desc>'
    return "\n".join((start, about, *parts, "</svg>", ""))


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def path(kind: str, *steps: object) -> str:
    words = (f"{step:g}" if isinstance(step, int | float) else str(step) for step in steps)
    return f'<path class="{kind}" d="{" ".join(words)}"/>'


def shape(size: tuple[int, int], reduction: int, channels: int) -> str:
    """Height, width and channels of a map; every stride-2 convolution rounds an odd side up."""
    height, width = (-(-side // reduction) for side in size)
    return TIMES.join(map(str, (height, width, channels)))


# The network: a row for each stage, a box for each bottleneck.

FIRST, ROW, LEFT = 58, 50, 142  # the middle of the first row, the way to the next, and where boxes begin
BOX, PITCH, TALL, WIDE = 28, 42, 26, 196  # a box, the way to the next, its height, and a box with words


class Row(NamedTuple):
    """A row of the drawing: a stage's bottlenecks, or one wide box with words in it."""

    name: str
    output: str
    bottlenecks: Sequence[Bottleneck] = ()
    words: str = ""
    stride: int = 1


def rows_of(config: Config, size: tuple[int, int]) -> Iterator[Row]:
    blocks = architecture.bottlenecks(config)
    yield Row("C1", shape(size, 2, config.stem_channels), words=f"3{TIMES}3 convolution, stride 2", stride=2)
    for number in range(len(config.stages)):
        stage = [block for block in blocks if block.stage == number]
        yield Row(f"Stage {number + 1}", shape(size, stage[-1].reduction, stage[-1].out_channels), stage)
    yield Row("C2", shape(size, blocks[-1].reduction, config.head_channels), words=POINTWISE)
    yield Row("Pool", f"{config.head_channels}", words="average over the map")
    kinds = {"linear": "linear", "conv": POINTWISE, "conv_bn": f"{POINTWISE}, BN"}
    kinds["conv_bn_act"] = f"{POINTWISE}, BN, {ACTIVATIONS[config.activation]}"
    yield Row("Classifier", f"{config.num_classes} classes", words=kinds[config.classifier])


def box(left: float, middle: float, width: float, words: str, stride: int = 1) -> Iterator[str]:
    """A step; one with a stride narrows towards its output."""
    inset = TALL / 4 if stride > 1 else 0
    top, bottom, right = middle - TALL / 2, middle + TALL / 2, left + width
    corners = ("M", left, top, "L", right, top + inset, "L", right, bottom - inset, "L", left, bottom, "Z")
    yield path("box strided" if stride > 1 else "box", *corners)
    yield text(left + width / 2, middle + 4, words, "middle on-strided" if stride > 1 else "middle")


def network(config: Config, size: tuple[int, int]) -> str:
    """The whole network, read like text: left to right, row by row."""
    rows = list(rows_of(config, size))

    def parts() -> Iterator[str]:
        yield text(0, 19, "Image", "name")
        yield text(LEFT - 8, 19, shape(size, 1, 3), "muted")
        joint: tuple[object, ...] = (LEFT - 14, 26)
        for number, row in enumerate(rows):
            middle = FIRST + ROW * number
            yield text(0, middle - 3, row.name, "name")
            yield text(0, middle + 13, row.output, "muted")
            yield path("line", "M", *joint, "V", middle, "H", LEFT)
            end = LEFT + (PITCH * (len(row.bottlenecks) - 1) + BOX if row.bottlenecks else WIDE)
            if row.words:
                yield from box(LEFT, middle, WIDE, row.words, row.stride)
            for index, block in enumerate(row.bottlenecks):
                left = LEFT + PITCH * index
                if index:
                    yield path("line", "M", left - PITCH + BOX, middle, "H", left)
                if block.shortcut:
                    up = ("V", middle - TALL / 2 - 2, "q", 0, -5, 5, -5)
                    down = ("H", left + BOX + 2, "q", 5, 0, 5, 5, "V", middle)
                    yield path("shortcut", "M", left - 7, middle, *up, *down)
                yield from box(left, middle, BOX, str(block.number), block.stride)
            # Through the gap between the rows to the start of the next.
            joint = (end, middle, "h", 8, "V", middle + ROW / 2 + 3, "H", LEFT - 14)

    blocks = architecture.bottlenecks(config)
    description = "; ".join(
        [f"image {shape(size, 1, 3)}"]
        + [
            f"{row.name}: "
            + (", ".join(f"{b.name} {_kind(b)}" for b in row.bottlenecks) or row.words)
            + f", output {row.output}"
            for row in rows
        ]
    )
    return svg(
        f"{config.name}-network",
        FIRST + ROW * (len(rows) - 1) + 22,
        f"The network {config.name}: {len(blocks)} bottlenecks in {len(config.stages)} stages",
        description,
        parts(),
    )


def _kind(block: Bottleneck) -> str:
    return "with shortcut" if block.shortcut else f"stride {block.stride} without shortcut"


# The two kinds of bottleneck.


def bottlenecks(config: Config, size: tuple[int, int]) -> str:
    """The first bottleneck with a shortcut next to the first with stride 2 (paper, Figure 4(d))."""
    blocks = architecture.bottlenecks(config)
    shown = [next(b for b in blocks if b.shortcut), next(b for b in blocks if b.stride == 2)]

    def parts() -> Iterator[str]:
        for left, block in zip((0, 204), shown, strict=True):
            yield from _bottleneck(left, block, size, ACTIVATIONS[config.activation])

    description = "; ".join(
        f"{b.name}: {b.in_channels} channels, widened to {b.hidden} by a {POINTWISE}, filtered by a 3{TIMES}3 "
        f"depthwise convolution of stride {b.stride}, narrowed to {b.out_channels} by a linear {POINTWISE}"
        + (", and added to the input" if b.shortcut else ", without shortcut")
        for b in shown
    )
    return svg(f"{config.name}-bottlenecks", 354, f"The two kinds of bottleneck of {config.name}", description, parts())


def _bottleneck(left: float, block: Bottleneck, size: tuple[int, int], activation: str) -> Iterator[str]:
    center, narrow, wide = left + 110, 44, 74  # half the widths of the narrow and the wide maps
    yield text(center, 14, block.name, "name middle")
    yield text(center, 31, f"stride {block.stride}, {'with' if block.shortcut else 'without'} shortcut", "muted middle")
    before = block.reduction // block.stride
    yield text(center, 56, shape(size, before, block.in_channels), "middle")
    steps = (
        (narrow, wide, POINTWISE, f"BN, {activation}", shape(size, before, block.hidden)),
        (wide, wide, f"3{TIMES}3 depthwise", f"BN, {activation}", shape(size, block.reduction, block.hidden)),
        (wide, narrow, POINTWISE, "BN, linear", shape(size, block.reduction, block.out_channels)),
    )
    y = 62.0
    for number, (above, below, what, then, output) in enumerate(steps):
        yield path("line", "M", center, y, "v", 12)
        corners = (center - above, y + 12, "L", center + above, y + 12, "L", center + below, y + 52)
        strided = number == 1 and block.stride > 1
        color = "box strided" if strided else "box"
        yield path(color, "M", *corners, "L", center - below, y + 52, "Z")
        for line, words in enumerate((f"{what}, stride 2" if strided else what, then)):
            yield text(center, y + 29 + 15 * line, words, "middle on-strided small" if strided else "middle small")
        yield path("line", "M", center, y + 52, "v", 10)
        yield text(center, y + 76, output, "middle")
        y += 82
    if block.shortcut:
        yield path("line", "M", center, y, "v", 10)
        yield path("shortcut", "M", center - 48, 52, "H", left + 14, "V", y + 20, "H", center - 10)
        yield f'<circle class="plus" cx="{center:g}" cy="{y + 20:g}" r="10"/>'
        yield path("line", "M", center - 5, y + 20, "h", 10, "M", center, y + 15, "v", 10)
        yield path("line", "M", center, y + 30, "v", 12)
    else:
        yield path("line", "M", center, y, "v", 14)


# Plots.


class Point(NamedTuple):
    """A point of a plot. Points of one name are joined; the first of them is labeled with the name."""

    name: str
    x: float
    y: float
    kind: str


MARKS = {"filled": "point", "hollow": "point hollow", "other": "point other"}


def mark(kind: str, x: float, y: float) -> str:
    """A point's sign, which differs by its form and not by its color alone."""
    if kind == "other":
        return path(MARKS[kind], "M", x - 6, y, "L", x, y - 6, "L", x + 6, y, "L", x, y + 6, "Z")
    return f'<circle class="{MARKS[kind]}" cx="{x:g}" cy="{y:g}" r="5"/>'


def scatter(
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    points: Sequence[Point],
    legend: Mapping[str, str],
    note: str = "",
) -> str:
    """A plot of named points; `legend` names each kind of point, `note` says how they were measured."""
    left, right, top, bottom = 40, WIDTH - 10, 26, 260
    xs, ys = ticks([0.0, *(point.x for point in points)]), ticks([point.y for point in points])

    def across(x: float) -> float:
        return round(left + (x - xs[0]) / (xs[-1] - xs[0]) * (right - left), 1)

    def down(y: float) -> float:
        return round(bottom - (y - ys[0]) / (ys[-1] - ys[0]) * (bottom - top), 1)

    def parts() -> Iterator[str]:
        yield text(0, 12, y_label)
        for y in ys:
            yield path("grid", "M", left, down(y), "H", right)
            yield text(left - 6, round(down(y) + 4, 1), f"{y:g}", "muted end")
        for x in xs:
            yield path("grid", "M", across(x), top, "V", bottom)
            yield text(across(x), bottom + 16, f"{x:g}", "muted middle")
        yield text((left + right) / 2, bottom + 36, x_label, "middle")
        if note:
            yield text((left + right) / 2, bottom + 53, note, "muted middle")
        for number, (kind, meaning) in enumerate(legend.items(), 1 - len(legend)):
            line = bottom - 16 + 18 * number
            yield mark(kind, right - 150, line)
            yield text(right - 139, line + 4, meaning, "small")
        for _, same in itertools.groupby(points, key=lambda point: point.name):
            first, *others = same
            x, y = across(first.x), down(first.y)
            for other in others:
                yield path("line", "M", x, y, "L", across(other.x), down(other.y))
            # The label goes to the left where there is room for it, else above.
            if x > left + 90:
                yield text(x - 9, y + 4, first.name, "small end")
            else:
                yield text(x - 5, y - 10, first.name, "small")
            for point in (*others, first):
                yield mark(point.kind, across(point.x), down(point.y))

    rows = "; ".join(f"{point.name}, {legend[point.kind]}: {point.x:g}, {point.y:g}" for point in points)
    height = bottom + (61 if note else 44)
    return svg(name, height, title, ". ".join(filter(None, (f"{y_label} against {x_label}", note, rows))), parts())


class Bar(NamedTuple):
    """A bar of a plot."""

    name: str
    value: float


def bars(name: str, title: str, label: str, rows: Sequence[Bar]) -> str:
    """A plot of named lengths, from the top down."""
    left, right, top, pitch, tall = 130, WIDTH - 40, 26, 24, 16
    longest = max(row.value for row in rows)

    def across(value: float) -> float:
        return round(left + value / longest * (right - left), 1)

    def parts() -> Iterator[str]:
        yield text(0, 12, label)
        for number, row in enumerate(rows):
            y = top + pitch * number
            yield text(left - 8, y + 12, row.name, "small end")
            yield path("box strided", "M", left, y, "H", across(row.value), "v", tall, "H", left, "Z")
            yield text(across(row.value) + 6, y + 12, f"{row.value:.1f}", "small")

    described = "; ".join(f"{row.name}: {row.value:.1f}" for row in rows)
    return svg(name, top + pitch * len(rows), title, f"{label}. {described}", parts())


def ticks(values: Sequence[float]) -> list[float]:
    """About six round numbers that span the values."""
    rough = (max(values) - min(values)) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(min(values) / step), math.ceil(max(values) / step)
    return [round(step * number, 10) for number in range(first, last + 1)]
