"""``routegym serve``."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["Serve"]


@dataclass(frozen=True)
class Serve:
    """Answer OpenAI-compatible requests with the arms that a trained policy chooses, within a budget for each.

    Clients name the model `routegym` and may send the headers X-Routegym-Budget-USD, X-Routegym-Lambda,
    X-Routegym-Conversation and X-Routegym-Conversation-Budget-USD. Every route is written to a log that other policies
    can be learned from and estimated with; POST /v1/routes/ID/score says what its answer was worth. /metrics is for
    Prometheus, /health for whoever watches. SIGTERM and Ctrl-C let requests under way end.

    examples:
      routegym serve runs/mine --pool pool.yaml
      routegym serve runs/mine --pool pool.yaml --budget-usd 0.01 --conversation-budget-usd 0.5
      routegym serve runs/mine --pool pool.yaml --explore 0.05 --api-key-env ROUTER_KEY --host 0.0.0.0
      curl localhost:8000/v1/chat/completions -H "X-Routegym-Budget-USD: 0.002" \\
           -d '{"model": "routegym", "messages": [{"role": "user", "content": "58*7"}]}'
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder that `routegym train` wrote."""
    pool: str = "embedded"
    """Pool file with the arms that the policy knows; `embedded` is the pool of small arithmetic models."""
    recording: Path | None = None
    """Where the run's recording is, if it has moved."""
    seed: int | None = None
    """Which of the trained policies; the first by default."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is all of them."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    budget_usd: float | None = None
    """Most USD of a request that does not name its own; none by default."""
    lambda_: Annotated[float, tyro.conf.arg(name="lambda")] = 0.0
    """Price of cost of a request that does not name its own."""
    conversation_budget_usd: float | None = None
    """Most USD of all requests of a conversation together, where they do not name it; none by default."""
    spend_cap: float | None = None
    """Most USD that all calls may cost together, also after a restart; none by default."""
    explore: float = 0.0
    """Share of the decisions drawn from all legal actions alike, so that the log can estimate other policies."""
    log: Path | None = None
    """Log of routes; RUN/routes.jsonl by default."""
    api_key_env: str | None = None
    """Environment variable with the key that clients have to send; none by default."""
    concurrency: int = 64
    """Requests under way at once; others wait."""

    def run(self) -> None:
        """Serve until interrupted."""
        from routegym.errors import ConfigError, MissingExtraError

        try:
            import uvicorn
        except ImportError:
            raise MissingExtraError("uvicorn", "serve") from None
        from rich.console import Console

        from routegym.cli.connection import pool_file, terminated_like_interrupted
        from routegym.cli.train import set_threads
        from routegym.pool.pool import load_pool
        from routegym.pool.spend import SpendCap
        from routegym.serving.route_log import RouteLog
        from routegym.serving.router import load_router
        from routegym.serving.server import MODEL, listen, make_app
        from routegym.serving.service import Service

        if self.concurrency < 1:
            raise ConfigError(f"concurrency = {self.concurrency}; expected at least 1")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port = {self.port}; expected 0 to 65535")
        key = None if self.api_key_env is None else os.environ.get(self.api_key_env, "")
        if key == "":
            raise ConfigError(f"--api-key-env {self.api_key_env}: the variable is not set; set it to the clients' key")
        set_threads(1)
        pool = load_pool(pool_file(self.pool))
        spending = self.run_folder / "serve.spend"
        if self.spend_cap is not None:
            pool.connect(spend=SpendCap(spending, self.spend_cap, "serve"))
        router = load_router(self.run_folder, recording=self.recording, seed=self.seed, pool=pool, explore=self.explore)
        with RouteLog(self.log or self.run_folder / "routes.jsonl") as log:
            service = Service(
                router,
                pool,
                spending,
                log=log,
                budget_usd=self.budget_usd,
                lambda_=self.lambda_,
                conversation_budget_usd=self.conversation_budget_usd,
            )
            app = make_app(service, concurrency=self.concurrency, api_key=key)
            config = uvicorn.Config(
                app, self.host, self.port, log_level="warning", access_log=False, timeout_keep_alive=75
            )
            server = uvicorn.Server(config)
            bound = listen(config)
            address, port = bound.getsockname()[:2]
            console = Console(stderr=True)
            console.print(
                f"[bold]{self.run_folder}[/] answers on http://{address}:{port}/v1 as model [bold]{MODEL}[/]: arms "
                f"{', '.join(arm.name for arm in router.arms)}; routes go to {log.path}",
                soft_wrap=True,
            )
            try:
                # uvicorn lets requests end, and then sends itself the signal that stopped it
                with terminated_like_interrupted(), suppress(KeyboardInterrupt):
                    server.run(sockets=[bound])
            finally:
                pool.backend.close()
