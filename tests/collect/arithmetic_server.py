"""A server with the OpenAI protocol on loopback that answers arithmetic, as a process of its own.

python arithmetic_server.py FOLDER DELAY_S: prints its port; writes one line per request that it has answered,
"MODEL PROMPT SEED", to FOLDER/log. A model answers 500 while FOLDER/down-MODEL exists. Model mK is wrong on
every (K + 2)th prompt.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from routegym.tasks.arithmetic import next_operation


def main(folder: Path, delay_s: float) -> None:
    log, lock = (folder / "log").open("a", buffering=1), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model, prompt = body["model"], body["messages"][-1]["content"]
            time.sleep(delay_s)
            down = (folder / f"down-{model}").exists()
            with lock:
                log.write(f"{model} {prompt} {body.get('seed')}{' 500' if down else ''}\n")
            if down:
                self._send(500, {"error": {"message": "out of order", "type": "server_error"}})
            else:
                self._send(200, self._completion(model, prompt, body.get("n") or 1))

        def _completion(self, model: str, prompt: str, n: int) -> dict[str, Any]:
            operation = next_operation(f"({prompt.removeprefix('Please: ')})")
            assert operation is not None, prompt
            wrong = zlib.crc32(prompt.encode()) % (int(model[1:]) + 2) == 0
            choices = [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": str((operation.value + wrong) % 1000)},
                    "finish_reason": "stop",
                }
                for index in range(n)
            ]
            usage = {"prompt_tokens": 6, "completion_tokens": 2 * n, "total_tokens": 6 + 2 * n}
            return {"id": "x", "object": "chat.completion", "created": 0, "model": model, "choices": choices,
                    "usage": usage}  # fmt: skip

        def _send(self, status: int, content: dict[str, Any]) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:  # clients are killed here, which is not worth a word
            pass

    server = Server(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
