"""Hands out the status page with its real fields, below /STATE/ for each of STATES, with facts that are made up.

    mock.py FOLDER      FOLDER has page.html.gz, etag.txt and csp.txt, as the build wrote them; prints its address

`/STATE/api/status` and `/STATE/api/events` keep the contract of the admin listener, and actions have their effects, so
that a page cannot tell it from a hub. `/posts` lists the actions that were asked for.
"""

import copy
import json
import math
import pathlib
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\u202egnp.exe\u202c",
    "x" * 128,
    "\"'><svg/onload=alert(1)>",
    "javascript:alert(1)//</script><script>alert(1)</script>",
    "\u05d0\u05d1\u05d2 and \u0645\u0631\u062d\u0628\u0627",
    "tab\tline\nbell\u0007",
    "__proto__",
]


def ms():
    return int(time.time() * 1000)


def agent(name, number, state="idle", **members):
    now = ms()
    row = {
        "id": f"t{number:03}:{number:04x}909a66e1",
        "name": name,
        "agent_id": f"{number:04x}909a66e1",
        "token_id": f"t{number:03}",
        "state": state,
        "reason": None,
        "idle_reason": "nothing_waits" if state == "idle" else None,
        "since_at": now - 840_000,
        "joined_at": now - 270_000_000,
        "left_at": None,
        "paused": None,
        "address": f"203.0.113.{number % 250}",
        "tls": True,
        "rtt_ms": 18 + number % 9,
        "workers": {
            "total": 1,
            "busy": int(state == "busy"),
            "idle": int(state == "idle"),
            "silent": int(state == "silent"),
            "withdrawn": int(state == "withdrawn"),
            "paused": int(state == "paused"),
        },
        "scopes": [],
        "paths": [],
        "models": ["llama3.1:8b"],
        "scopes_total": 0,
        "paths_total": 0,
        "models_total": 1,
        "requests": {"complete": 401, "failed": 2, "cancelled": 0, "refused": 0, "lost": 0},
        "busy_ms": 81_000_000,
        "last_request_at": now - 9000,
        "token_expires_at": None,
        "info": {
            "version": "0.2.0",
            "host": f"box-{number}",
            "arch": "x86_64",
            "upstream": None,
            "note": None,
            "cpus": 16,
            "memory_bytes": 64 << 30,
        },
    }
    row.update(members)
    return row


def request(number, app, age, **members):
    row = {
        "id": f"7f3a91c2-{number}",
        "request_id": f"7f3a91c2-{number}",
        "app": app,
        "client": "198.51.100.7",
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "llama3.1:8b",
        "scope": None,
        "arrived_at": ms() - age,
    }
    row.update(members)
    return row


def running(number, app, age, agent_row, **members):
    row = request(
        number,
        app,
        age,
        state="answering",
        agent=agent_row["id"],
        agent_name=agent_row["name"],
        worker=0,
        started_at=ms() - age,
        head_at=ms() - age + 400,
        status=200,
        in_bytes=1832,
        out_bytes=28123,
        tries=1,
    )
    row.update(members)
    return row


def waiting(number, app, age, position, **members):
    row = request(
        number,
        app,
        age,
        urgency=3,
        position=position,
        until_at=ms() - age + 600_000,
        expected_at=ms() + 12_000,
        reason="busy",
        detail="all 3 workers are busy",
        agents=3,
        workers=3,
    )
    row.update(members)
    return row


def application(name, **members):
    row = {
        "name": name,
        "running": 1,
        "waiting": 1,
        "max": 4,
        "queue": None,
        "weight": 1,
        "requests": 12345,
        "failed": 3,
        "limited": 9,
        "busy_ms_hour": 2_520_000,
        "busy_ms_day": 11_400_000,
        "busy_ms_total": 183_600_000,
        "wasted_ms_day": 240_000,
        "budget_ms": 7_200_000,
        "budget_used_ms": 4_200_000,
        "budget_ends_at": ms() + 3_600_000,
        "last_at": ms(),
    }
    row.update(members)
    return row


def failure(number, app, **members):
    row = {
        "at": ms() - 130_000,
        "id": f"7f3a91c2-{number}",
        "request_id": f"req_{number}",
        "app": app,
        "client": "198.51.100.7",
        "method": "POST",
        "path": "/v1/completions",
        "model": None,
        "agent_name": "gpu-3",
        "status": 502,
        "end": "AW",
        "outcome": "agent_lost",
        "text": "the agent was lost before it answered",
        "queue_ms": 0,
        "total_ms": 61_000,
        "tries": 1,
    }
    row.update(members)
    return row


def history(points=360):
    wave = [round(22 + 14 * math.sin(i / 23) + 8 * math.sin(i / 3.1) + (i * 7919 % 5)) for i in range(points)]
    return {
        "step_ms": 10_000,
        "end_at": ms() // 10_000 * 10_000,
        "requests": wave,
        "failed": [int(i % 60 == 59) * 9 for i in range(points)],
        "running_max": [3] * points,
        "waiting_max": [n // 3 for n in wave],
        "busy_max": [min(6, n // 7) for n in wave],
        "workers_max": [6] * points,
        "queue_p50_ms": [None if 100 < i < 140 else n * 20 for i, n in enumerate(wave)],
        "queue_p95_ms": [None if 100 < i < 140 else n * 190 for i, n in enumerate(wave)],
        "head_p95_ms": [380] * points,
    }


def base(role):
    now = ms()
    return {
        "api": 1,
        "role": role,
        "version": "0.2.0",
        "instance": "7f3a91c2",
        "pid": 4711,
        "host": "hub1" if role == "hub" else "box-17",
        "started_at": now - 273_000_000,
        "now_at": now,
        "state": "running",
        "ready": True,
        "ready_reason": None,
        "drain": None,
        "access": "all",
        "attention": [],
        "recent": [],
        "log": [
            {"at": now - 90_000, "level": "warn", "text": "gpu-3: nobody listens there"},
            {"at": now - 99_000, "level": "info", "text": "status page at http://127.0.0.1:8081/"},
        ],
        "history": history(),
    }


def limits():
    row = {"flag": None, "used": 3, "max": 1024, "peak": 17, "hits": 0, "last_hit_at": None}
    return [
        dict(row, name="concurrent", flag="--concurrent"),
        dict(row, name="queue_depth", flag="--queue-depth", hits=3, last_hit_at=ms() - 4_000_000),
        dict(row, name="open_files"),
    ]


def empty():
    status = base("hub")
    status["history"] = history(0)
    status.update(
        {
            "queue_paused": None,
            "predecessor": None,
            "listeners": [{"address": "0.0.0.0:8080", "tls": False}],
            "tls": None,
            "join_command": "slime agent --hub http://hub1:8080 --token-file token.txt --upstream http://127.0.0.1:11434",
            "load": dict.fromkeys(
                [
                    "clients",
                    "tunnels",
                    "agents",
                    "agents_ready",
                    "workers",
                    "workers_busy",
                    "workers_idle",
                    "workers_silent",
                    "workers_withdrawn",
                    "workers_paused",
                    "running",
                    "finishing",
                    "waiting",
                    "gathering",
                ],
                0,
            )
            | {"oldest_waiting_at": None},
            "last_minute": {
                "seconds": 60,
                "requests": 0,
                "failed": 0,
                "upstream_5xx": 0,
                "in_bytes": 0,
                "out_bytes": 0,
                "queue_p50_ms": None,
                "queue_p95_ms": None,
                "head_p50_ms": None,
                "head_p95_ms": None,
            },
            "totals": {
                "requests": 0,
                "outcomes": {},
                "responses": {},
                "retries": {},
                "in_bytes": 0,
                "out_bytes": 0,
                "busy_ms": 0,
                "upstream_ms": {},
            },
            "limits": limits(),
            "names": [],
            "agents_total": 0,
            "agents": [],
            "running_total": 0,
            "running": [],
            "waiting_total": 0,
            "waiting": [],
            "apps": [],
            "models": [],
        }
    )
    return status


def count(status):
    """Makes the figures those of the rows."""
    load = status["load"]
    for state in ["busy", "idle", "silent", "withdrawn", "paused"]:
        load["workers_" + state] = sum(row["workers"][state] for row in status["agents"])
    load["workers"] = sum(row["workers"]["total"] for row in status["agents"])
    load["running"], load["waiting"] = len(status["running"]), len(status["waiting"])
    status["agents_total"] = max(status["agents_total"], len(status["agents"]))
    status["running_total"], status["waiting_total"] = len(status["running"]), len(status["waiting"])
    status["names"] = [
        {"name": name, "agents": 1, "agents_max": 1, "last_seen_at": ms(), "paused": None}
        for name in sorted({row["name"] for row in status["agents"]})
    ]
    return status


def one():
    status = empty()
    status["agents"] = [agent("gpu-1", 1)]
    return count(status)


def usual():
    status = empty()
    status["history"] = history()
    status["agents"] = [
        agent("gpu-1", 1, "busy"),
        agent("gpu-10", 10),
        agent("gpu-2", 2, "busy"),
        agent("gpu-3", 3, "withdrawn", reason="nobody listens there", models_total=3),
    ]
    status["agents"][1].update(idle_reason="nothing_fits", scopes=["whisper"], scopes_total=1)
    first, _, second, _ = status["agents"]
    status["running"] = [
        running(467, "alice", 130_000, first),
        running(468, "alice", 31_000, second),
        running(469, "none", 2_000, second, method="GET", path="/v1/models", model=None, state="sent", status=None),
    ]
    status["waiting"] = [
        waiting(470, "alice", 41_000, 1),
        waiting(
            102,
            "bob",
            182_000,
            None,
            path="/v1/audio",
            model=None,
            scope="whisper",
            expected_at=None,
            reason="no_agent",
            detail="no connected agent has 'whisper'",
            urgency=1,
        ),
    ]
    status["apps"] = [
        application("bob", running=0, busy_ms_day=60_000, budget_ms=None),
        application("alice", running=2),
    ]
    status["models"] = [
        {"name": "llama3.1:8b", "agents": 3, "workers": 3, "workers_idle": 0, "running": 2, "waiting": 1}
    ]
    status["recent"] = [
        failure(466, "alice"),
        failure(
            465, "bob", end="UW", outcome="upstream_failed", tries=2, text="the upstream closed before it answered"
        ),
    ]
    status["attention"] = [
        {
            "code": "waiting_unserved",
            "severity": "bad",
            "since_at": ms() - 182_000,
            "subject": "whisper",
            "text": "1 request waits for the scope 'whisper', which no connected agent has.",
        },
        {
            "code": "agent_withdrawn",
            "severity": "warn",
            "since_at": ms() - 840_000,
            "subject": status["agents"][3]["id"],
            "text": "gpu-3 takes no work: nobody listens there.",
        },
    ]
    status["totals"]["requests"] = 12558
    status["last_minute"].update(requests=184, failed=2, queue_p50_ms=4, queue_p95_ms=4200)
    return count(status)


def many():
    status = usual()
    status["agents"] += [agent(f"node-{i}", i, "busy" if i % 3 else "idle") for i in range(11, 507)]
    status["agents_total"] = 2310
    return count(status)


def few():
    """500 agents, all of them there."""
    status = many()
    status["agents_total"] = 500
    return status


def bare():
    """A hub that keeps no history."""
    status = usual()
    status["history"] = None
    return status


def paused():
    status = usual()
    status["queue_paused"] = {"since_at": ms() - 3_480_000}
    status["attention"].insert(
        0,
        {
            "code": "queue_paused",
            "severity": "bad",
            "since_at": ms() - 3_480_000,
            "subject": None,
            "text": "The queue is paused; 2 requests wait.",
        },
    )
    row = status["agents"][0]
    row.update(state="paused", paused={"since_at": ms(), "by": "name"})
    status["names"][0]["paused"] = {"since_at": ms()}
    status["attention"].append(
        {
            "code": "paused",
            "severity": "warn",
            "since_at": ms(),
            "subject": "gpu-1",
            "text": "All agents named gpu-1 are paused.",
        }
    )
    return status


def view():
    status = paused()
    status["access"] = "view"
    return status


def draining():
    status = usual()
    status.update(
        state="draining",
        ready=False,
        ready_reason="draining",
        drain={"since_at": ms(), "until_at": ms() + 600_000},
        predecessor={"pid": 4000, "running": 3, "waiting": 0, "until_at": ms() + 600_000},
    )
    status["attention"] += [
        {
            "code": "draining",
            "severity": "warn",
            "since_at": ms(),
            "subject": None,
            "text": "The hub is ending: 3 requests run, 2 wait.",
        },
        {
            "code": "predecessor",
            "severity": "warn",
            "since_at": ms(),
            "subject": None,
            "text": "The process before this one still serves 3 requests.",
        },
    ]
    return status


def hostile():
    status = usual()
    for i, text in enumerate(HOSTILE):
        row = agent(
            text,
            20 + i,
            "withdrawn",
            reason=text,
            models=[text],
            scopes=[text],
            scopes_total=1,
            agent_id=text,
            address=text,
        )
        row["info"] = dict.fromkeys(["version", "host", "arch", "upstream", "note"], text) | {
            "cpus": None,
            "memory_bytes": None,
        }
        row["id"] = "t:" + text
        status["agents"].append(row)
        status["running"].append(
            running(500 + i, text, 1000, row, request_id=text, path="/" + text, method="GET", model=text, scope=text)
        )
        status["waiting"].append(
            waiting(600 + i, text, 1000, i, request_id=text, detail=text, path="/" + text, model=text, scope=text)
        )
        status["recent"].append(failure(700 + i, text, text=text, request_id=text, agent_name=text, path="/" + text))
        status["apps"].append(application(text))
        status["models"].append(
            {"name": text, "agents": 1, "workers": 1, "workers_idle": 0, "running": 0, "waiting": 1}
        )
        status["log"].append({"at": ms(), "level": "error", "text": text})
        status["limits"].append(dict(limits()[0], name=text, flag=text))
        status["attention"].append(
            {
                "code": "agent_withdrawn",
                "severity": "warn",
                "since_at": ms(),
                "subject": row["id"],
                "text": text + " takes no work: " + text,
            }
        )
    status["host"] = HOSTILE[0]
    status["ready"], status["ready_reason"] = False, HOSTILE[1]
    status["join_command"] = HOSTILE[3]
    return count(status)


def of_agent():
    status = base("agent")
    now = ms()
    status.update(
        {
            "hubs": [
                {
                    "address": "https://hub.example.org",
                    "tls": True,
                    "state": "joined",
                    "reason": None,
                    "since_at": now - 7_200_000,
                    "retry_at": None,
                    "rtt_ms": 23,
                    "tunnels": 2,
                    "tunnels_max": 2,
                },
                {
                    "address": "https://hub2.example.org",
                    "tls": True,
                    "state": "waiting",
                    "reason": "connection refused",
                    "since_at": now - 60_000,
                    "retry_at": now + 14_000,
                    "rtt_ms": None,
                    "tunnels": 0,
                    "tunnels_max": 2,
                },
            ],
            "upstreams": [
                {
                    "index": i,
                    "address": f"127.0.0.1:1143{4 + i}",
                    "agent_id": f"c0eb909a66e1-{i}",
                    "state": state,
                    "reason": reason,
                    "since_at": now - 7_200_000,
                    "checked_at": now - 3000,
                    "workers": {"total": 1, "busy": 1 - i, "idle": 0, "withdrawn": i, "finishing": 0},
                    "models": ["llama3.1:8b"],
                    "models_total": 1,
                    "requests": {"complete": 812, "failed": 0, "cancelled": 1, "refused": 0},
                    "busy_ms": 3_000_000,
                    "last_request_at": now,
                }
                for i, (state, reason) in enumerate([("well", None), ("unwell", "nobody listens there")])
            ],
            "running": [
                {
                    "id": "7f3a91c2-1",
                    "request_id": "req_1",
                    "hub": "https://hub.example.org",
                    "upstream": 0,
                    "worker": 0,
                    "method": "POST",
                    "path": "/v1/chat/completions",
                    "state": "answering",
                    "started_at": now - 31_000,
                    "head_at": now,
                    "status": 200,
                    "in_bytes": 1832,
                    "out_bytes": 28123,
                }
            ],
            "totals": {
                "requests": 812,
                "outcomes": {},
                "in_bytes": 0,
                "out_bytes": 0,
                "busy_ms": 0,
                "dials": {"joined": 2, "refused": 0, "failed": 7},
            },
        }
    )
    return status


STATES = {
    "usual": usual,
    "empty": empty,
    "one": one,
    "few": few,
    "bare": bare,
    "many": many,
    "paused": paused,
    "view": view,
    "draining": draining,
    "hostile": hostile,
    "agent": of_agent,
    "lost": usual,
    "restarted": usual,
    "polling": usual,
    "locked": usual,
}


class World:
    """The facts of one state, made when it is looked at first."""

    def __init__(self, name):
        self.name = name
        self.status = STATES[name]()
        self.streams = 0
        self.lock = threading.Lock()

    def read(self):
        with self.lock:
            self.status["now_at"] = ms()
            return copy.deepcopy(self.status)

    def act(self, path):
        """What an action does; None if there is no such thing."""
        with self.lock:
            status = self.status
            kind, *rest = path.split("/")
            if kind == "queue":
                status["queue_paused"] = {"since_at": ms()} if rest == ["pause"] else None
                status["attention"] = [item for item in status["attention"] if item["code"] != "queue_paused"]
                if status["queue_paused"]:
                    status["attention"].insert(
                        0, {"code": "queue_paused", "severity": "bad", "since_at": ms(), "subject": None, "text": ""}
                    )
                return {"ok": True, "changed": True}
            what, verb = urllib.parse.unquote(rest[0]), rest[1]
            if kind == "exchanges":
                for table in ["running", "waiting"]:
                    if any(row["id"] == what for row in status[table]):
                        status[table] = [row for row in status[table] if row["id"] != what]
                        if "load" in status:
                            count(status)
                        return {"ok": True, "was": table}
                return None
            if status["role"] == "agent":
                status["upstreams"][int(what)]["state"] = "paused" if verb == "pause" else "well"
                return {"ok": True, "changed": True}
            rows = [row for row in status["agents"] if row["id" if kind == "agents" else "name"] == what]
            for row in rows:
                by = "agent" if kind == "agents" else "name"
                row["paused"] = {"since_at": ms(), "by": by} if verb == "pause" else None
                row["state"] = "paused" if verb == "pause" else "idle"
            return {"ok": True, "changed": True} if rows else None


WORLDS = {}
POSTS = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    page = {}

    def log_message(self, *_):
        pass

    def answer(self, status, body, fields):
        self.send_response(status)
        fields = {"Cache-Control": "no-store"} | fields
        for name, value in (
            fields
            | {
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Referrer-Policy": "no-referrer",
                "Cross-Origin-Opener-Policy": "same-origin",
                "Cross-Origin-Resource-Policy": "same-origin",
            }
        ).items():
            self.send_header(name, value)
        if body is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def json(self, value, status=200):
        kind = "application/json" if status == 200 else "application/problem+json"
        self.answer(status, json.dumps(value).encode(), {"Content-Type": kind})

    def world(self):
        _, state, path = self.path.partition("?")[0].split("/", 2)
        return WORLDS.setdefault(state, World(state)), path

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        world, path = self.world()
        POSTS.append({"state": world.name, "path": path, "type": self.headers["Content-Type"]})
        if world.name == "locked":
            return self.json(
                {"title": "Forbidden", "status": 403, "detail": "This password may look, and do nothing."}, 403
            )
        value = world.act(path.removeprefix("api/"))
        return (
            self.json(value)
            if value
            else self.json({"title": "Not found", "status": 404, "detail": "No such thing."}, 404)
        )

    def do_GET(self):
        if self.path == "/posts":
            return self.json(POSTS)
        if self.path.count("/") < 2 or self.path.split("/")[1] not in STATES:
            return self.json({"title": "Not found", "status": 404}, 404)
        world, path = self.world()
        if path == "":
            return self.answer(
                200,
                self.page["page.html.gz"],
                {
                    "Content-Type": "text/html; charset=utf-8",
                    "Content-Encoding": "gzip",
                    "Cache-Control": "no-cache",
                    "ETag": self.page["etag.txt"].decode(),
                    "Content-Security-Policy": self.page["csp.txt"].decode(),
                },
            )
        if path == "api/status":
            if self.headers.get("Accept") == "text/plain":
                return self.answer(200, b"hub hub1   slime 0.2.0\n", {"Content-Type": "text/plain; charset=utf-8"})
            return self.json(world.read())
        if path == "api/events":
            return self.events(world)
        return self.json({"title": "Not found", "status": 404}, 404)

    def events(self, world):
        world.streams += 1
        if world.name == "polling" or world.name == "lost" and world.streams > 1:
            return self.json({"title": "Too many", "status": 503}, 503)
        self.answer(200, None, {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        try:
            self.stream(world)
        except OSError:
            pass

    def stream(self, world):
        def send(event, value):
            self.wfile.write(f"event: {event}\ndata: {json.dumps(value)}\n\n".encode())

        self.wfile.write(b"retry: 2000\n\n")
        told = world.read()
        if world.name == "restarted" and world.streams > 1:
            told.update(instance="99999999", started_at=ms())
        send("status", told)
        quiet = 0
        while True:
            time.sleep(1)
            if world.name == "lost":
                # Not a word more, and nobody answers polls either.
                time.sleep(3600)
            if world.name == "restarted" and world.streams == 1:
                return
            status = world.read()
            change = {
                name: value
                for name, value in status.items()
                if value != told.get(name)
                and name not in ("agents", "now_at", "history")
                and not (world.name == "restarted" and name in ("instance", "started_at"))
            }
            rows = {row["id"]: row for row in told.get("agents", [])}
            changed = [row for row in status.get("agents", []) if rows.pop(row["id"], None) != row]
            if changed:
                change["agents"] = changed
            if rows:
                change["agents_gone"] = list(rows)
            if status["history"] and status["history"]["step_ms"] + told["history"]["end_at"] <= ms():
                told["history"]["end_at"] += status["history"]["step_ms"]
                change["history_point"] = {
                    name: 5 for name, value in status["history"].items() if isinstance(value, list)
                }
                change["history_point"]["end_at"] = told["history"]["end_at"]
            quiet += 1
            if change or quiet >= 5:
                send("change", {"now_at": status["now_at"]} | change)
                quiet = 0
            status["history"] = told["history"]
            told = status


def main():
    folder = pathlib.Path(sys.argv[1])
    Handler.page = {name: (folder / name).read_bytes() for name in ["page.html.gz", "etag.txt", "csp.txt"]}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
