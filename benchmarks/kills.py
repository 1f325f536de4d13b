"""SIGKILL under load, again and again: no acknowledged decision may be lost, and the log's chain must hold.

    python benchmarks/kills.py --bundle runs/demo/bundle --kills 50 --store runs/kills.sqlite

Each round starts the service on the same store, asks as eight clients until it is killed, and keeps the id of every
decision that was answered. At the end all of them must be in the log, which must verify.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import httpx
from sqlalchemy import select

from tamis.decisions import decisions_table, verify
from tamis.store import Store

CLIENTS = 8


def ask(port: int, numbers: count[int], until: threading.Event, answered: set[str]) -> None:
    """One client: the ids of what is answered, until the server is gone."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        while not until.is_set():
            try:
                got = client.post("/v1/decisions", json={"texts": [f"text {next(numbers)}"]})
            except httpx.HTTPError:
                return
            if got.status_code == httpx.codes.OK:
                answered.update(one["id"] for one in got.json()["decisions"])


def ready(port: int, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Wait until the service says that it is."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise SystemExit(f"the service was not ready on port {port}: exit code {process.poll()}")


def killed(options: argparse.Namespace, numbers: count[int], answered: set[str]) -> None:
    """One round: start, load, kill at a random moment."""
    settings = ["--set", f"store={options.store}", "--set", "require_key=false"]
    command = [
        str(Path(sys.executable).with_name("tamis")),
        "serve",
        str(options.bundle),
        "--port",
        str(options.port),
        *settings,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        ready(options.port, process)
        over = threading.Event()
        clients = [threading.Thread(target=ask, args=(options.port, numbers, over, answered)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(random.uniform(0.2, 2.0))
        process.send_signal(signal.SIGKILL)
        over.set()
        for client in clients:
            client.join()


def main() -> None:
    """Kill, and count what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--store", default="runs/kills.sqlite", help="a database URL, or a SQLite file")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--port", type=int, default=8790)
    options = parser.parse_args()
    answered: set[str] = set()
    numbers = count()
    for number in range(options.kills):
        killed(options, numbers, answered)
        print(f"\r{number + 1} of {options.kills} kills, {len(answered)} decisions answered", end="", flush=True)
    with Store.open(options.store, create=False) as store:
        found = verify(store)
        with store.begin() as connection:
            logged = set(connection.execute(select(decisions_table.c.id)).scalars())
    missing = answered - logged
    print(
        f"\n{found.rows} rows in the log; {len(missing)} answered decisions are missing;"
        f" chain: {found.broken or 'holds'}"
    )
    sys.exit(bool(missing or found.broken))


if __name__ == "__main__":
    main()
