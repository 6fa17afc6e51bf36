"""Which pictures there are, drawn from results alone."""

import os

from cases import CONNECTIONS, OUTSTANDING, PAYLOADS, RAW_TCP, STREAMED, SYSTEMS, lat, size, stream, thr
from svg import Axis, Picture, Series, Style, decades

# A hue for each family that colour-blind readers can tell apart; dashes for members of a family.
BLUE, GREEN, RED, PURPLE, GREY = "#0068a8", "#00785a", "#c24e00", "#a3437c", "#59636e"
OCHRE = "#8a6d00"
STYLES = {
    "shm-busy": Style(BLUE, "", "circle"), "shm-adaptive": Style(BLUE, "7 3", "square"),
    "shm-event": Style(BLUE, "2 3", "triangle"), "tcp": Style(GREEN, "", "circle"),
    "tcp-event": Style(GREEN, "2 3", "triangle"),
    "unix": Style(GREEN, "7 3", "square"), "tonic-tcp": Style(RED, "", "diamond"),
    "tonic-unix": Style(RED, "7 3", "square"), "tarpc-tcp": Style(PURPLE, "", "diamond"),
    "ruapc-tcp": Style(PURPLE, "2 3", "triangle"), "volo-shm": Style(OCHRE, "", "diamond"),
    "raw-tcp": Style(GREY, "2 3", "circle"),
}
# Zero bytes have no place on a logarithmic axis: drawn at this, labelled 0.
ZERO = 12


def micros(value):
    for unit, name in ((1e6, "s"), (1e3, "ms"), (1, "us")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return f"{value * 1000:g} ns"


def rate(value):
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def count(value):
    return f"{value:,.0f}".replace(",", " ") if value >= 10000 else f"{value:.0f}"


def cost(value):
    return f"{value:g} us"


def collect(results, points, figure, systems=SYSTEMS):
    """A series for each system; `points` are (x, case)."""
    found = []
    for system in systems:
        values = [(x, results.get(system.key, case.name, figure)) for x, case in points]
        values = [(x, value) for x, value in values if value]
        if len(values) > 1:
            found.append(Series(system.text, STYLES[system.key], values))
    return found


def values(series):
    return [y for one in series for _, y in one.points]


def note(results):
    about = results.about.get("machine", {})
    model = about.get("cpu", "").split(" @")[0].replace("(R)", "").replace("(TM)", "")
    where = "virtual machine, " if about.get("virtual") else ""
    return f"{where}{about.get('cores')} cores, {model}, Linux {about.get('kernel', '').split('-')[0]}, " \
           f"{about.get('date')}"


def chart(results, path, title, detail, series, x_axis, y_title, write):
    if not series:
        return None
    picture = Picture(880, 520, title, detail, note(results))
    picture.lines((92, 76, 690, 440), x_axis, decades(y_title, values(series), write), series)
    picture.save(path)
    return path


def latency(results, path):
    points = [(payload or ZERO, lat(payload)) for payload in PAYLOADS]
    ticks = [payload or ZERO for payload in PAYLOADS if size(payload) not in ("32k", "128k")]
    axis = Axis("bytes each way", ZERO / 1.5, PAYLOADS[-1] * 1.3, ticks,
                lambda value: "0" if value == ZERO else size(value).upper())
    series = collect(results, points, "p50_us", SYSTEMS + [RAW_TCP])
    return chart(results, path, "Latency of a unary echo over its length",
                 "one call at a time, median; lower is better", series, axis,
                 "round trip", micros)


def over_outstanding(results, path, title, detail, figure, y_title, write):
    points = [(number, thr(1, number)) for number in OUTSTANDING]
    axis = Axis("calls open at once on one connection", 0.8, 13000, OUTSTANDING, count)
    return chart(results, path, title, detail, collect(results, points, figure), axis, y_title, write)


def throughput(results, path):
    return over_outstanding(results, path, "Calls a second over calls open at once",
                            "32-byte unary echo, one thread at each end; higher is better",
                            "ops_per_s", "calls/s", rate)


def cpu(results, path):
    return over_outstanding(results, path, "CPU time per call over calls open at once",
                            "32-byte unary echo, both ends together; lower is better",
                            "cpu_us", "CPU per call", cost)


def connections(results, path):
    panels = [("one call open on each", [(number, thr(number, number)) for number in CONNECTIONS]),
              ("1024 calls open in all", [(number, thr(number, 1024)) for number in CONNECTIONS])]
    series = [collect(results, points, "ops_per_s") for _, points in panels]
    if not any(series):
        return None
    picture = Picture(1080, 500, "Calls a second over connections",
                      "32-byte unary echo, one thread at each end; higher is better", note(results))
    y_axis = decades("calls/s", values(series[0] + series[1]), rate)
    for (title, _), lines, left in zip(panels, series, (92, 610)):
        axis = Axis(f"connections, {title}", 0.8, 1250, CONNECTIONS, count)
        picture.lines((left, 76, left + 320, 420), axis, y_axis, lines)
    picture.save(path)
    return path


def streams(results, path):
    points = [(length, stream(length)) for length in STREAMED]
    axis = Axis("bytes of a message", 24, STREAMED[-1] * 1.4, STREAMED, lambda n: size(n).upper())
    return chart(results, path, "Messages a second of one server stream",
                 "one stream on one connection; higher is better",
                 collect(results, points, "ops_per_s"), axis, "messages/s", rate)


def modes(results, path):
    """What a mode's latency costs."""
    found = []
    for system in SYSTEMS:
        spent, taken, idle = (results.get(system.key, case, figure) for case, figure in (
            ("lat-32", "cpu_us"), ("lat-32", "p50_us"), ("idle", "cpu_cores")))
        if spent and taken:
            text = system.text
            if idle is not None and idle >= 0.01:
                text += f"\n{idle:.2f} cores while idle"
            found.append(Series(text, STYLES[system.key], [(spent, taken)]))
    if not found:
        return None
    picture = Picture(880, 520, "What latency costs: one call at a time",
                      "32-byte unary echo; nearer to the lower left is better; no CPU is used while "
                      "idle (below 0.01 cores) unless said", note(results))
    spent = [one.points[0][0] for one in found]
    x_axis = decades("CPU time per call, both ends together", [min(spent) / 1.3, max(spent) * 1.6], cost)
    y_axis = decades("round trip, median", [min(values(found)) / 1.5, max(values(found)) * 1.5], micros)
    picture.scatter((92, 76, 850, 440), x_axis, y_axis, found)
    picture.save(path)
    return path


def draw_all(results, folder):
    drawn = [
        latency(results, os.path.join(folder, "latency-payload.svg")),
        throughput(results, os.path.join(folder, "throughput-outstanding.svg")),
        cpu(results, os.path.join(folder, "cpu-outstanding.svg")),
        connections(results, os.path.join(folder, "throughput-connections.svg")),
        streams(results, os.path.join(folder, "streams.svg")),
        modes(results, os.path.join(folder, "modes.svg")),
    ]
    return [path for path in drawn if path]
