"""What labelling has cost, what it will cost, and whether one more question is allowed."""

from __future__ import annotations

from collections.abc import Iterable

from tamis.config import TeacherConfig
from tamis.records import Example, TeacherSignal


class Meter:
    """Counts tokens and money; a question in flight counts with the most it can cost."""

    def __init__(self, config: TeacherConfig, spent: Iterable[TeacherSignal] = ()) -> None:
        self.budget = config.budget
        self.tokens = 0
        self.money = 0.0
        self.rows = 0
        self._orders = config.orders
        self._votes = config.votes
        self._requests = config.orders
        self._largest = 0
        self._flying: dict[str, int] = {}
        for signal in spent:
            self.add(signal)

    def add(self, signal: TeacherSignal) -> None:
        """Count an answer."""
        tokens = signal.prompt_tokens + signal.completion_tokens
        self.rows += 1
        self.tokens += tokens
        self.money += self.budget.cost(signal.prompt_tokens, signal.completion_tokens)
        self._largest = max(self._largest, tokens)
        self._requests = self._orders * (self._votes if signal.method == "votes" else 1)
        self._flying.pop(signal.example_id, None)

    def allows(self, example: Example) -> bool:
        """Whether this question, with all that is in flight, stays inside the budget; if so it is in flight."""
        # A byte-level tokenizer makes at most one token of a byte; the rest is no longer than the longest so far.
        bound = self._largest + self._requests * len(example.text.encode("utf-8", "replace"))
        tokens = sum(self._flying.values()) + bound
        if self.budget.tokens is not None and self.tokens + tokens > self.budget.tokens:
            return False
        if self.budget.money is not None and self.money + tokens * self._dearest > self.budget.money:
            return False
        self._flying[example.id] = bound
        return True

    @property
    def _dearest(self) -> float:
        """Price of a token at most: the mean so far, or the dearer of the two prices before any answer."""
        if self.tokens:
            return self.money / self.tokens
        return max(self.budget.price_prompt, self.budget.price_completion) / 1e6

    def estimate(self, rows: int) -> tuple[int, float]:
        """Tokens and money `rows` more rows will take, from the mean so far."""
        share = rows / max(1, self.rows)
        return round(self.tokens * share), self.money * share

    def __str__(self) -> str:
        spent = f"{self.tokens} tokens"
        return f"{spent}, {self.money:.4g} in money" if self.money else spent

    @property
    def limit(self) -> str:
        """The budget in words."""
        parts = [f"{self.budget.tokens} tokens"] if self.budget.tokens is not None else []
        return " or ".join(parts + ([f"{self.budget.money:g} in money"] if self.budget.money is not None else []))
