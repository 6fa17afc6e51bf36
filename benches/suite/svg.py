"""Line and point charts on logarithmic axes, as SVG text: no libraries. The background is light
and part of the picture, so that it reads the same on a dark page."""

import math
from collections import namedtuple
from html import escape

INK, GREY, FAINT, PAPER = "#1f2328", "#59636e", "#e6e9ed", "#ffffff"
FONT = "-apple-system,'Segoe UI','Noto Sans','Liberation Sans',Helvetica,Arial,sans-serif"
LABEL_GAP = 15
CHAR_WIDTH = 8  # of the 12 px labels, in the widest font they may be shown in

Style = namedtuple("Style", "colour dash marker")
Series = namedtuple("Series", "text style points")


class Axis:
    """Values on a logarithmic line of pixels, with the ticks that are labelled."""

    def __init__(self, title, low, high, ticks, write):
        self.title, self.low, self.high = title, low, high
        self.ticks, self.write = ticks, write

    def place(self, value, start, end):
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return start + share * (end - start)


def decades(title, values, write):
    """An axis around these values, labelled at powers of ten."""
    low, high = min(values) / 1.25, max(values) * 1.25
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    # A short axis needs lines between the powers.
    steps = (1, 2, 5) if math.log10(high / low) < 2.2 else (1,)
    ticks = [step * 10.0 ** power for power in range(first, last + 1) for step in steps]
    return Axis(title, low, high, [tick for tick in ticks if low <= tick <= high], write)


def spread(wanted, gap, low, high):
    """Places as near to those wanted as a gap between them allows, inside the bounds."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    # Neighbours that are too close form a block, centred on where its members would like to be.
    blocks = []
    for index in order:
        blocks.append([[index], wanted[index]])
        while len(blocks) > 1:
            (above, centre), (below, other) = blocks[-2], blocks[-1]
            if other - centre >= gap * (len(above) + len(below)) / 2:
                break
            members = above + below
            middle = (len(members) - 1) / 2
            mean = sum(wanted[m] - (i - middle) * gap for i, m in enumerate(members)) / len(members)
            half = gap * middle
            mean = min(max(mean, low + half), high - half)
            blocks[-2:] = [[members, mean]]
    places = [0.0] * len(wanted)
    for members, centre in blocks:
        for position, index in enumerate(members):
            places[index] = centre + (position - (len(members) - 1) / 2) * gap
    return places


class Picture:
    def __init__(self, width, height, title, detail, note):
        self.width, self.height, self.parts = width, height, []
        self.parts.append(
            f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6" '
            f'fill="{PAPER}" stroke="#d1d9e0"/>')
        self.text(24, 30, title, size=16, weight=600)
        self.text(24, 50, detail, colour=GREY)
        self.text(width - 16, height - 14, note, colour=GREY, size=10, anchor="end")

    def text(self, x, y, words, colour=INK, size=12, anchor="start", weight=400, turn=None):
        rotate = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn is not None else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" '
            f'font-weight="{weight}" text-anchor="{anchor}"{rotate}>{escape(words)}</text>')

    def line(self, x1, y1, x2, y2, colour, width=1.0, dash=""):
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width}"{dashes(dash)}/>')

    def marker(self, x, y, style, radius=3.2):
        """A circle, square, triangle or diamond, so that nobody needs the colours."""
        r = radius
        shapes = {
            "square": f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"',
            "triangle": f'<path d="M{x:.1f} {y - r * 1.2:.1f}l{r * 1.2:.1f} {r * 2.1:.1f}'
                        f'h{-r * 2.4:.1f}z"',
            "diamond": f'<path d="M{x:.1f} {y - r * 1.35:.1f}l{r * 1.35:.1f} {r * 1.35:.1f}'
                       f'l{-r * 1.35:.1f} {r * 1.35:.1f}l{-r * 1.35:.1f} {-r * 1.35:.1f}z"',
        }
        shape = shapes.get(style.marker, f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"')
        self.parts.append(f'{shape} fill="{style.colour}" stroke="{PAPER}" stroke-width="0.8"/>')

    def frame(self, box, x_axis, y_axis):
        """Grid, ticks and titles; returns what turns values into pixels."""
        left, top, right, bottom = box
        for tick in y_axis.ticks:
            y = y_axis.place(tick, bottom, top)
            self.line(left, y, right, y, FAINT)
            self.text(left - 8, y + 4, y_axis.write(tick), colour=GREY, anchor="end")
        for tick in x_axis.ticks:
            x = x_axis.place(tick, left, right)
            self.line(x, top, x, bottom, FAINT)
            self.text(x, bottom + 18, x_axis.write(tick), colour=GREY, anchor="middle")
        self.line(left, bottom, right, bottom, GREY)
        self.text((left + right) / 2, bottom + 40, x_axis.title, anchor="middle")
        self.text(left - 58, (top + bottom) / 2, y_axis.title, anchor="middle", turn=-90)
        return lambda x, y: (x_axis.place(x, left, right), y_axis.place(y, bottom, top))

    def lines(self, box, x_axis, y_axis, series):
        """A line for each series, labelled at its end."""
        place = self.frame(box, x_axis, y_axis)
        left, top, right, bottom = box
        for one in series:
            points = [place(x, y) for x, y in one.points]
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            self.parts.append(
                f'<path d="{path}" fill="none" stroke="{one.style.colour}" stroke-width="2" '
                f'stroke-linejoin="round"{dashes(one.style.dash)}/>')
            for x, y in points:
                self.marker(x, y, one.style)
        ends = [place(*one.points[-1]) for one in series]
        rows = spread([y for _, y in ends], LABEL_GAP, top - 6, bottom + 10)
        for one, (x, y), row in zip(series, ends, rows):
            self.parts.append(
                f'<path d="M{x + 5:.1f} {y:.1f}L{right + 6:.1f} {y:.1f}L{right + 18:.1f} {row:.1f}" '
                f'fill="none" stroke="{one.style.colour}" stroke-width="0.8" opacity="0.6"/>')
            self.marker(right + 23, row, one.style)
            self.text(right + 30, row + 4, one.text, colour=one.style.colour)

    def scatter(self, box, x_axis, y_axis, series):
        """A point for each series, labelled beside it in one or two lines."""
        place = self.frame(box, x_axis, y_axis)
        places = [place(*one.points[0]) for one in series]
        taken = [(x - 8, y - 8, x + 8, y + 8) for x, y in places]
        for one, (x, y) in zip(series, places):
            lines = one.text.split("\n")
            width, height = max(map(len, lines)) * CHAR_WIDTH, 15 * len(lines)
            spots = [(x + 11, y - height / 2), (x - 11 - width, y - height / 2),
                     (x - width / 2, y - 10 - height), (x - width / 2, y + 10),
                     (x + 11, y + 4), (x + 11, y - 4 - height),
                     (x - 11 - width, y + 4), (x - 11 - width, y - 4 - height)]
            left, top = min(spots, key=lambda spot: crowding(
                (spot[0], spot[1], spot[0] + width, spot[1] + height), taken, box))
            taken.append((left, top, left + width, top + height))
            # Where points are crowded, the leader says whose label it is.
            near_x = min(max(x, left), left + width)
            near_y = min(max(y, top + 2), top + height)
            self.line(x, y, near_x, near_y, one.style.colour, 0.8)
            self.marker(x, y, one.style, radius=5)
            for number, words in enumerate(lines):
                self.text(left, top + 12 + 15 * number, words, size=12,
                          colour=one.style.colour if number == 0 else GREY,
                          weight=600 if number == 0 else 400)

    def save(self, path):
        with open(path, "w") as file:
            file.write(
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" '
                f'height="{self.height}" viewBox="0 0 {self.width} {self.height}" '
                f'font-family="{FONT}">\n' + "\n".join(self.parts) + "\n</svg>\n")


def crowding(rect, taken, box):
    """How much of a rectangle lies on others or outside of the box."""
    def shared(other):
        width = min(rect[2], other[2]) - max(rect[0], other[0])
        height = min(rect[3], other[3]) - max(rect[1], other[1])
        return max(width, 0) * max(height, 0)

    outside = (rect[2] - rect[0]) * (rect[3] - rect[1]) - shared(box)
    return sum(map(shared, taken)) + 4 * outside


def dashes(dash):
    return f' stroke-dasharray="{dash}"' if dash else ""
