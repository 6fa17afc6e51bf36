"""Results as they are kept: a first line about the machine, then one JSON line a row."""

import json
import statistics

# What is kept of a row where repetitions become one.
FIGURES = ("ops_per_s", "gb_per_s", "p50_us", "p99_us", "cpu_client_us", "cpu_server_us", "cpu_us",
           "cpu_cores", "other_cpu_cores")
NAMES = ("system", "peer", "version", "transport", "rt", "case", "payload", "conns", "outstanding")


class Results:
    """Medians by (system, case), and what they were measured on."""

    def __init__(self, path):
        self.about, rows, self.errors = {}, {}, {}
        with open(path) as lines:
            for line in lines:
                row = json.loads(line)
                if "machine" in row:
                    self.about = row
                elif "error" in row:
                    self.errors[row["system"], row["case"]] = row["error"]
                else:
                    rows.setdefault((row["system"], row["case"]), []).append(row)
        self.rows = {key: median(several) for key, several in rows.items()}

    def get(self, system, case, figure):
        """A figure, or None where it was not measured."""
        return self.rows.get((system, case), {}).get(figure)

    def noisy(self, system, case):
        return self.rows.get((system, case), {}).get("noisy", False)

    def write_medians(self, path):
        with open(path, "w") as file:
            for row in [self.about] + [self.rows[key] for key in sorted(self.rows)]:
                file.write(json.dumps(row) + "\n")


def median(rows):
    """One row for several repetitions; those that others disturbed only where all were."""
    calm = [row for row in rows if not row.get("noisy")] or rows
    one = {name: calm[0][name] for name in NAMES if name in calm[0]}
    one["reps"] = calm[0].get("reps", len(calm))
    one["noisy"] = all(row.get("noisy") for row in rows)
    for figure in FIGURES:
        values = [row[figure] for row in calm if figure in row]
        if values:
            one[figure] = statistics.median(values)
    for figure in ("ops_per_s", "p50_us"):
        values = [row[figure] for row in calm if figure in row]
        if len(values) > 1:
            one[figure + "_range"] = [min(values), max(values)]
        elif calm[0].get(figure + "_range"):
            one[figure + "_range"] = calm[0][figure + "_range"]
    return one
