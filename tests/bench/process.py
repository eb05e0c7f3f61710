"""Processes that are measured: what they use, and that they end with this one."""

import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

HOST = "127.0.0.1"
# Load, upstream and proxies share one CPU: no wake-ups across CPUs, and no sleeping CPU to be woken between two requests. CPU time per
# request then repeats within a few per cent; otherwise the same ratio may be off by two when requests come one by one.
CPU = {max(os.sched_getaffinity(0))}
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def prepare():
    """For this process: all the descriptors that it may have, and the CPU of all others."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.sched_setaffinity(0, CPU)


class Process:
    """A child. It inherits the CPU and the limits."""

    def __init__(self, command, folder=None, environment=None, output=subprocess.DEVNULL):
        self.child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
            env={**os.environ, **(environment or {})},
            preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        self.pid = self.child.pid

    def cpu(self):
        """Seconds of CPU time so far, of all threads that live."""
        nanoseconds = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            nanoseconds += int((task / "schedstat").read_text().split()[0])
        return nanoseconds / 1e9

    def resident(self):
        """Resident kilobytes."""
        return int(re.search(r"Rss:\s+(\d+)", Path(f"/proc/{self.pid}/smaps_rollup").read_text())[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(3)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Trace:
    """The system calls of a process from now on, by name."""

    def __init__(self, process, folder):
        self.file = Path(folder) / f"trace-{process.pid}"
        self.tracer = Process(["strace", "-c", "-f", "-o", self.file, "-p", process.pid])
        status = Path(f"/proc/{process.pid}/status")
        wait_until(lambda: f"TracerPid:\t{self.tracer.pid}\n" in status.read_text())

    def stop(self):
        self.tracer.child.send_signal(signal.SIGINT)
        self.tracer.child.wait(10)
        counted = re.findall(r"(?m)^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", self.file.read_text())
        return {name: int(count) for count, name in counted if name != "total"}


def wait_until(holds, seconds=20):
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.02)


def free_port(taken=set()):
    """A port that nobody listens on, and below those that the system gives to outgoing connections."""
    for port in range(20_000, 32_000):
        if port in taken:
            continue
        taken.add(port)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port
    raise SystemExit("there is no free port")
