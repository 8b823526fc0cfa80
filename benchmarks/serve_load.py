"""What a router in service adds to a call: clients ask a model that answers at once, by themselves and through `serve`.

    python benchmarks/serve_load.py            # a table, a minute or two
    python benchmarks/serve_load.py --write    # also puts it into docs/serve.md

Clients, the server and the model's server are processes on one machine, so the wall clock of 64 clients at once holds
the time that each waits for the others; one client alone tells what the server itself takes. A single-call policy with
an attention network over 4 arms, TF-IDF features of the prompt, every route logged; in the last row each request
belongs to a conversation with a budget.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import httpx
import numpy as np
import uvicorn
from live_overhead import make_pool
from live_overhead import serve as answer_at_once

from routegym.envs.single_call import SingleCallWorkflow
from routegym.graph import start_recording
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import make_actor
from routegym.pool.openai import OpenAIEngine
from routegym.serving import Router
from routegym.serving.route_log import RouteLog
from routegym.serving.server import MODEL, listen, make_app
from routegym.serving.service import Service
from routegym.tasks import TaskSet

PACKAGES = ("routegym", "starlette", "uvicorn", "httpcore", "httpx")
HEADER = ("who asks", "clients", "requests/s", "p50 ms", "p99 ms", "server's CPU ms per request")
PROMPTS = tuple(f"What is {number} plus {number * number}, divided by {number % 7 + 1}?" for number in range(400))


def route(upstream: int, port: Any, folder: str) -> None:
    """Serve a router over a pool whose models answer at once."""
    import torch

    torch.set_num_threads(1)
    engine = OpenAIEngine(f"http://127.0.0.1:{upstream}/v1", concurrency=64)
    pool = make_pool(lambda: engine, None, None)
    names = tuple(f"t{number}" for number in range(len(PROMPTS)))
    tasks = TaskSet(names, PROMPTS, ("42",) * len(names), ("train",) * len(names)).with_embedding("tfidf")
    workflow = SingleCallWorkflow(levels=False)
    recording = start_recording("load", workflow, pool, tasks)
    recording.cost_scale_usd, recording.budget_range_usd = 1e-4, (1e-5, 1e-3)
    policy = NetworkPolicy(make_actor("attention", (64, 64), recording), "attention", (64, 64))
    with RouteLog(Path(folder) / "routes.jsonl") as log:
        service = Service(Router(recording, policy, workflow, pool=pool), pool, Path(folder) / "spend", log=log)
        config = uvicorn.Config(
            make_app(service), "127.0.0.1", 0, log_level="warning", access_log=False, timeout_keep_alive=75
        )
        bound = listen(config)
        port.send(bound.getsockname()[1])
        uvicorn.Server(config).run(sockets=[bound])


async def ask(url: str, model: str, clients: int, requests: int, conversations: bool) -> np.ndarray:
    """Seconds of each request."""
    seconds: list[float] = []
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def one(first: int) -> None:
            for number in range(first, requests, clients):
                body = {"model": model, "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}]}
                headers = {}
                if conversations:
                    headers = {
                        "X-Routegym-Conversation": f"c{first}",
                        "X-Routegym-Conversation-Budget-USD": "100",
                        "X-Routegym-Budget-USD": "0.01",
                    }
                began = time.perf_counter()
                reply = await client.post(url, content=json.dumps(body), headers=headers)
                seconds.append(time.perf_counter() - began)
                reply.raise_for_status()

        await asyncio.gather(*(one(first) for first in range(clients)))
    return np.array(seconds)


def state(process: int) -> dict[str, float]:
    """CPU seconds, resident MiB, open files and threads of a process."""
    stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        "cpu_s": (int(stat[11]) + int(stat[12])) / ticks,
        "rss_mib": int(stat[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "files": len(os.listdir(f"/proc/{process}/fd")),
        "threads": int(stat[17]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="of 64 clients; a tenth of it of one client")
    parser.add_argument("--quick", action="store_true", help="too short to mean anything: does it run")
    parser.add_argument("--write", action="store_true", help="put the table into docs/serve.md")
    options = parser.parse_args()
    many = 300 if options.quick else options.requests
    context = multiprocessing.get_context("spawn")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ports, processes = [], []
        for target, arguments in ((answer_at_once, ()), (route, (folder,))):
            mine, theirs = context.Pipe()
            ahead = (ports[0], theirs) if ports else (theirs,)
            processes.append(context.Process(target=target, args=(*ahead, *arguments), daemon=True))
            processes[-1].start()
            ports.append(mine.recv())
        server = processes[1].pid
        assert server is not None
        straight, routed = (f"http://127.0.0.1:{port}/v1/chat/completions" for port in ports)
        asyncio.run(ask(routed, MODEL, 64, min(many, 2000), True))  # everything is loaded once
        before = state(server)
        for who, url, model, clients, conversations in (
            ("the model itself", straight, "m0", 1, False),
            ("through the router", routed, MODEL, 1, False),
            ("the model itself", straight, "m0", 64, False),
            ("through the router", routed, MODEL, 64, False),
            ("through the router, conversations", routed, MODEL, 64, True),
        ):
            number = many if clients > 1 else many // 10
            was, began = state(server), time.perf_counter()
            seconds = asyncio.run(ask(url, model, clients, number, conversations))
            rate = number / (time.perf_counter() - began)
            cpu = (state(server)["cpu_s"] - was["cpu_s"]) / number
            p50, p99 = 1e3 * np.percentile(seconds, [50, 99])
            own = f"{1e3 * cpu:.2f}" if url == routed else ""
            rows.append((who, str(clients), f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", own))
        after = state(server)
        for process in processes:
            process.terminate()
            process.join()
    grown = ", ".join(
        f"{what} {before[name]:.0f} -> {after[name]:.0f}"
        for name, what in (("rss_mib", "MiB in memory"), ("files", "open files"), ("threads", "threads"))
    )
    note = f"`python benchmarks/serve_load.py`: {common.machine(PACKAGES)}. The server over "
    note += f"{2 * many + many // 10:,} requests: {grown}."
    common.show("What a router in service adds", HEADER, rows, note)
    if options.write:
        common.write("serve load", HEADER, rows, note, common.DOCS.with_name("serve.md"))


if __name__ == "__main__":
    main()
