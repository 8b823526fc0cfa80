"""A circuit breaker: an endpoint that fails again and again is left alone for a while."""

from __future__ import annotations

__all__ = ["CircuitBreaker"]


class CircuitBreaker:
    """Closed: everything passes. Open: nothing does. After the cooldown one probe passes; its success closes it.

    As long as few probes have failed in a row, an outage may be a hiccup that is worth waiting for; `is_down` says that
    it is more than that.

    Not thread-safe: used from one event loop. Times are seconds of one monotonic clock.

    Args:
        failures: consecutive failures that open it.
        cooldown_s: seconds from opening to the probe, and from a failed probe to the next.
        probes: consecutive failed probes after which it is down.
    """

    def __init__(self, failures: int, cooldown_s: float, probes: int) -> None:
        self._most, self._cooldown_s, self._most_probes = failures, cooldown_s, probes
        self._failures = 0
        self._probe_at: float | None = None
        self._probes_failed = 0
        self._phase = 0

    def admit(self, now: float) -> int | None:
        """A ticket for one attempt, to be given back with `record`; None = the circuit is open."""
        if self._probe_at is not None:
            if now < self._probe_at:
                return None
            self._phase += 1
            self._probe_at = float("inf")
        return self._phase

    def record(self, ticket: int, succeeded: bool | None, now: float) -> None:
        """Say how an attempt ended; None = it was given up and tells nothing.

        Attempts sent before the circuit last opened, closed or began to probe no longer count.
        """
        if ticket != self._phase:
            return
        probing = self._probe_at is not None
        if succeeded:
            self._failures = 0
            if probing:
                self._phase += 1
                self._probe_at = None
                self._probes_failed = 0
        elif succeeded is None:
            if probing:
                self._probe_at = now
        else:
            self._failures += 1
            if probing or self._failures >= self._most:
                self._phase += 1
                self._probe_at = now + self._cooldown_s
                self._probes_failed += probing

    @property
    def is_down(self) -> bool:
        """Whether it is open and its probes have failed as well."""
        return self._probes_failed >= self._most_probes

    def wait_s(self, now: float) -> float:
        """Seconds until the next probe may be sent; 0 while closed or due, infinite while one is under way."""
        return 0.0 if self._probe_at is None else max(0.0, self._probe_at - now)
