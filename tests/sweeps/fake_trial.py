"""A trial that is over in no time: its return peaks at x = 0.3.

Arguments, as name=value: ``x``; ``act=fail`` ends with an error where x > 0.5, ``act=stall`` waits for ever there,
``act=wait`` reports and then waits for a file ``go`` in the working directory. Every process leaves a line in ``begun``
there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

values = dict(argument.split("=", 1) for argument in sys.argv[1:])
out, x = Path(os.environ["ROUTEGYM_OUT"]), float(values["x"])
out.mkdir(parents=True, exist_ok=True)
with Path("begun").open("a") as begun:
    begun.write(f"{out.name} {os.getpid()}\n")
if values.get("act") == "fail" and x > 0.5:
    sys.stderr.write("first line\nlast line: x is too large\n")
    raise SystemExit(3)


def waits() -> bool:
    act = values.get("act")
    return (act == "wait" and not Path("go").exists()) or (act == "stall" and x > 0.5)


records = [{"step": step, "seed": 0, "return": -((x - 0.3) ** 2), "score": 0.0} for step in range(1, 10)]
with (out / "metrics.jsonl").open("w") as file:
    for number, record in enumerate(records):
        file.write(json.dumps(record) + "\n")
        file.flush()
        while number == 2 and waits():
            time.sleep(0.02)
(out / "summary.json").write_text(json.dumps({"aiq": 1 - (x - 0.3) ** 2, "score": x, "cost_usd": x * x}))
