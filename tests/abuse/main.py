"""Abuse, one scenario after the other: main.py [--short | --long] [NAME...]"""

import asyncio
import signal
import sys
import time

import over_tls
import scenarios
from harness import Failed, raise_limit

# The longest that one scenario may take: in the short form, in the long form.
LIMITS = 120, 900


def main():
    words = sys.argv[1:]
    long = "--long" in words
    wanted = [word for word in words if not word.startswith("--")]
    if unknown := [word for word in words if word.startswith("--") and word not in ("--short", "--long")]:
        sys.exit(f"{unknown[0]}: there is --short and --long")
    chosen = [one for one in scenarios.ALL + over_tls.ALL if not wanted or any(word in one.__name__ for word in wanted)]
    if not chosen:
        sys.exit(f"no scenario is called like {' or '.join(wanted)}")
    raise_limit(20_000)
    # What a scenario has started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = []
    begun = time.monotonic()
    for scenario in chosen:
        begin = time.monotonic()
        print(f"{scenario.__name__}: {scenario.__doc__.splitlines()[0]}", flush=True)
        try:
            asyncio.run(asyncio.wait_for(scenario(long), LIMITS[long]))
        except (Failed, OSError, EOFError) as error:
            failed.append(scenario.__name__)
            print(f"FAIL {scenario.__name__}: {error or 'out of time'}", flush=True)
        else:
            print(f"ok   {scenario.__name__} ({time.monotonic() - begin:.1f} s)", flush=True)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed, in {time.monotonic() - begun:.0f} s")
    sys.exit(1 if failed else 0)


main()
