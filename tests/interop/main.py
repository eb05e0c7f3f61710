"""All tests, in the order in which they run: `plain` and `tls` are two runs of the same ones, at the same time if none is named."""

import importlib
import os
import re
import subprocess
import sys
import threading

MODULES = ["curl", "raw", "vectors", "node", "nginx", "python", "sockets", "models", "fronts", "small", "apache", "apps", "sdks", "browser", "endings"]
WIRES = ["plain", "tls"]


def run(wire, wanted):
    """
    Runs the tests over one of both in a process of its own. What it says is marked; its last line, what it says of those
    that failed, and its exit code are returned.
    """
    command = [sys.executable, __file__, f"--{wire}", *wanted]
    last, failed = "", []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as child:
        for line in child.stdout:
            last = line.rstrip("\n")
            print(f"{wire:5} {last}", flush=True)
            if last.startswith("failed: "):
                failed.append(f"{wire:5} {last}")
    return last, failed, child.returncode


def both(wanted):
    results = {}
    threads = [
        threading.Thread(target=lambda wire=wire: results.update({wire: run(wire, wanted)})) for wire in WIRES
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sums = [0, 0, 0]
    for last, _, _ in results.values():
        for at, number in enumerate(re.findall(r"\d+", last)[:3]):
            sums[at] += int(number)
    # Once more, at the end: the other run may have gone on for long since.
    for _, failed, _ in results.values():
        for line in failed:
            print(line)
    print("{} passed, {} failed, {} skipped, over plain and TLS".format(*sums))
    codes = [code for _, _, code in results.values()]
    # A name that only one of both runs knows is known.
    return max(codes) if 1 in codes or min(codes) else 0


def main():
    wanted = sys.argv[1:]
    chosen = [wire for wire in WIRES if f"--{wire}" in wanted]
    wanted = [word for word in wanted if not word.startswith("--")]
    if len(chosen) != 1:
        return both(wanted)
    os.environ["SLIME_INTEROP_WIRE"] = chosen[0]
    harness = importlib.import_module("harness")
    # The cases about TLS itself, and those of what the manual prints, make their own, and run once.
    for module in MODULES + (["tls", "manual", "monitors"] if chosen == ["plain"] else []):
        importlib.import_module(module)
    return harness.main(wanted)


sys.exit(main())
