"""What keeps a tier of a cascade from being asked too much, or while it is down: pure states on a clock in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace

MINUTE, DAY = 60.0, 86_400.0


@dataclass(frozen=True)
class Bucket:
    """A token bucket: `size` requests at once, refilled evenly over `period` seconds; None sets no limit.

    No period, wherever it begins, sees more than twice its size: a full bucket and what flows in meanwhile.
    """

    size: int | None
    period: float
    spent: float = 0.0
    at: float = 0.0

    def take(self, now: float) -> Bucket | None:
        """The bucket with one request less; None when it is empty."""
        if self.size is None:
            return self
        spent = max(0.0, self.spent - self.size * (now - self.at) / self.period) + 1
        return replace(self, spent=spent, at=now) if spent <= self.size + 1e-9 else None


@dataclass(frozen=True)
class Budget:
    """Requests a minute and a day; one is made only where both buckets hold it."""

    minute: Bucket
    day: Bucket

    @classmethod
    def of(cls, per_minute: int | None, per_day: int | None, now: float) -> Budget:
        """Two full buckets."""
        return cls(Bucket(per_minute, MINUTE, at=now), Bucket(per_day, DAY, at=now))

    def take(self, now: float) -> Budget | None:
        """The budget with one request less; None when either bucket is empty."""
        minute, day = self.minute.take(now), self.day.take(now)
        return Budget(minute, day) if minute and day else None


@dataclass(frozen=True)
class Breaker:
    """A circuit breaker (Nygard, Release It!, 2007): after `failures` in a row nobody is asked for `seconds`.

    Then it is half open: one request probes while the others are still kept away. Its success closes the breaker, its
    failure opens it anew.
    """

    failures: int
    seconds: float
    failed: int = 0
    opened: float | None = None
    probing: bool = False

    def enter(self, now: float) -> Breaker | None:
        """The breaker while a request is made; None when none may be."""
        if self.opened is None:
            return self
        if self.probing or now - self.opened < self.seconds:
            return None
        return replace(self, probing=True)

    def leave(self) -> Breaker:
        """The breaker after a request that was given up by who made it: nothing is known of the other side."""
        return replace(self, probing=False)

    def success(self) -> Breaker:
        """The breaker after an answer, be it a refusal: who refuses is there."""
        return replace(self, failed=0, opened=None, probing=False)

    def failure(self, now: float) -> Breaker:
        """The breaker after a request that was not answered."""
        failed = self.failed + 1
        opened = now if self.probing or failed >= self.failures else self.opened
        return replace(self, failed=failed, opened=opened, probing=False)
