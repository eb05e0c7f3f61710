"""Rounds of measurements, and the tables that come of them. tests/bench/run starts it."""

import argparse
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flat import FLAT
from metrics import COMPARED
from process import prepare
from setups import SLIME
from upstream import Upstreams

BASE = "haproxy"


def main():
    known = {metric.name: metric for metric in [*COMPARED, *FLAT]}
    parser = argparse.ArgumentParser(prog="tests/bench/run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--list", action="store_true", help="what can be measured")
    parser.add_argument("names", metavar="NAME", nargs="*", choices=[[], *known], help="what to measure (everything)")
    options = parser.parse_args()
    if options.list:
        return print(*known)
    for number in [signal.SIGTERM, signal.SIGHUP]:
        signal.signal(number, lambda *_: sys.exit(1))
    prepare()
    failed = False
    print(f"{machine()}\nload {load()} at the beginning; medians of {options.rounds} rounds (smallest to largest)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        upstreams = Upstreams(folder)
        try:
            for name in options.names or known:
                failed |= not measure(known[name], upstreams, folder, options.rounds)
        finally:
            upstreams.stop()
    print(f"\nload {load()} at the end")
    return failed


def measure(metric, upstreams, folder, rounds):
    """All rounds of one metric. The setups change places from round to round, so that what drifts on the machine meets all alike."""
    results, errors = {setup.name: [] for setup in metric.setups}, []
    for number in range(1 if metric.once else rounds):
        first = number % len(metric.setups)
        for setup in metric.setups[first:] + metric.setups[:first]:
            try:
                results[setup.name].append(metric.measure(setup, upstreams, folder))
            except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
                results[setup.name].append({})
                errors.append(f"{setup.name}, round {number + 1}: {error!r}")
    print(f"\n{metric.name}\n")
    table(metric, results)
    for error in errors:
        print(f"FAILED: {error}")
    sys.stdout.flush()
    return not errors


def table(metric, results):
    names = list(results)
    compares = BASE in names and len(names) > 1
    lines = [["", *names, *([f"{name} / {BASE}" for name in names if name != BASE] if compares else [])]]
    for key, title, form in metric.rows:
        columns = {name: [values.get(key) for values in results[name]] for name in names}
        line = [title, *(spread(form, columns[name]) for name in names)]
        for name in names if compares else []:
            if name != BASE:
                line.append(spread("%.2f", [a / b if a is not None and b else None for a, b in zip(columns[name], columns[BASE])]))
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |")


def spread(form, values):
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    median, least, most = (form % value for value in (statistics.median(values), min(values), max(values)))
    return median if least == most else f"{median} ({least}-{most})"


def machine():
    def first_line(*command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return next(iter(done.stdout.splitlines()), "?")

    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processor = found[1] if found else platform.machine()
    versions = [
        first_line(SLIME, "version"), first_line("haproxy", "-v"), first_line("nginx", "-v"), first_line("wrk", "-v"),
    ]
    size = Path(SLIME).stat().st_size
    return (
        f"{time.strftime('%Y-%m-%d')}, {processor}, {os.cpu_count()} CPUs of which one is used, Linux {platform.release()}\n"
        f"{'; '.join(re.sub(r' *(Copyright|https?:).*', '', version) for version in versions)}; the binary of slime has {size:,} bytes"
    )


def load():
    return f"{os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())
