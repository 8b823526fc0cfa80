"""Spends from a cap: `python spend_worker.py FOLDER CAP CALLS WORST COST THREADS` prints how many were admitted.

COST `hold` never settles; COST `die` reserves everything, prints and kills itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from routegym.pool.spend import SpendCap


def main(folder: str, cap: float, calls: int, worst: float, cost: str, threads: int) -> None:
    spend = SpendCap(folder, cap)
    admitted = [0] * threads

    def work(thread: int) -> None:
        for _ in range(calls // threads):
            (ticket,) = spend.reserve([worst])
            if ticket is not None:
                admitted[thread] += 1
                if cost not in ("hold", "die"):
                    spend.settle(ticket, float(cost))

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    os.write(1, f"{sum(admitted)}\n".encode())
    if cost == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    spend.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5], int(sys.argv[6]))
