"""How likely a causal model goes on with each option, the shared prefix computed once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from tamis.teach.prompt import Message

Ids = list[int]


@dataclass(frozen=True)
class Scored:
    """One text: probability mass of each option, tokens of the prompt, states of its last one, (layers, width)."""

    probabilities: dict[str, float]
    tokens: int
    states: Tensor


class OptionScorer:
    """Reads option probabilities off a causal model.

    Where the first tokens of the options differ, the distribution of the first token decides. Where two begin alike,
    every option is scored to its end token, so that none is the beginning of another.
    """

    def __init__(self, model: Any, tokenizer: Any, layers: Sequence[int] = ()) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.layers = layers
        self._prefix: Ids = []
        self._cache: Any = None

    def score(self, chats: Sequence[Sequence[Message]], options: Mapping[str, str]) -> list[Scored]:
        """Score `options` (category id to answer) as the next turn of each chat."""
        texts = [self.render(chat) for chat in chats]
        prompts = [self._encode(text) for text in texts]
        answers = {name: self.answer_ids(texts[0], word) for name, word in options.items()}
        self.share(common_prefix(prompts))
        first = self.last_logprobs([prompt for prompt in prompts], keep=1)
        if len({ids[0] for ids in answers.values()}) == len(answers):
            rows = [{name: float(row[0, ids[0]].exp()) for name, ids in answers.items()} for row, _ in first]
        else:
            rows = self._whole(prompts, answers)
        return [Scored(row, len(prompt), states) for row, prompt, (_, states) in zip(rows, prompts, first, strict=True)]

    def _whole(self, prompts: Sequence[Ids], answers: Mapping[str, Ids]) -> list[dict[str, float]]:
        """Probability of each whole answer with its end token; they are leaves of a trie, so they sum to at most 1."""
        end = self.tokenizer.eos_token_id
        leaves = {name: [*ids, end] for name, ids in answers.items()}
        rows: list[dict[str, float]] = [{} for _ in prompts]
        for name, ids in leaves.items():
            # The last token is only predicted, never read.
            scored = self.last_logprobs([prompt + ids[:-1] for prompt in prompts], keep=len(ids))
            for row, (logprobs, _) in zip(rows, scored, strict=True):
                row[name] = float(logprobs[range(len(ids)), ids].sum().exp())
        return rows

    def render(self, chat: Sequence[Message]) -> str:
        """The chat in the model's own template; without one, its turns line by line."""
        if self.tokenizer.chat_template:
            return str(self.tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True))
        return "\n".join(turn["content"] for turn in chat)

    def _encode(self, text: str) -> Ids:
        special = not self.tokenizer.chat_template
        return list(self.tokenizer.encode(text, add_special_tokens=special))

    def answer_ids(self, prompt: str, word: str) -> Ids:
        """Tokens of an answer where it stands: a tokenizer may make others of the word alone."""
        before, after = self._encode(prompt), self._encode(prompt + word)
        if after[: len(before)] == before and len(after) > len(before):
            return after[len(before) :]
        return list(self.tokenizer.encode(word, add_special_tokens=False))

    def share(self, prefix: Ids) -> None:
        """Compute the keys and values of a prefix, unless those at hand serve."""
        if self._prefix and prefix[: len(self._prefix)] == self._prefix and 2 * len(self._prefix) >= len(prefix):
            return
        self._prefix, self._cache = prefix, None
        if prefix:
            with torch.inference_mode():
                ids = torch.tensor([prefix], device=self.model.device)
                self._cache = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    @torch.inference_mode()
    def last_logprobs(self, rows: Sequence[Ids], keep: int) -> list[tuple[Tensor, Tensor]]:
        """Log-probabilities after each row's last `keep` tokens, (keep, vocabulary), and states, (layers, width).

        All rows must begin with the shared prefix.
        """
        shared = len(self._prefix)
        ids, mask = left_padded([row[shared:] for row in rows])
        device = self.model.device
        positions = (mask.cumsum(1) - 1).clamp(min=0) + shared
        whole = torch.cat([torch.ones(len(rows), shared, dtype=mask.dtype), mask], dim=1)
        done = self.model(
            input_ids=ids.to(device),
            attention_mask=whole.to(device),
            position_ids=positions.to(device),
            past_key_values=self._copies(len(rows)),
            use_cache=bool(shared),
            logits_to_keep=keep,
            output_hidden_states=bool(self.layers),
        )
        logprobs = done.logits.float().log_softmax(-1).cpu()
        states = torch.empty(len(rows), len(self.layers), self.model.config.hidden_size)
        for place, layer in enumerate(self.layers):
            # Normalised as a bundle's are: a few dimensions a hundred times the others are all one would compare.
            states[:, place] = layer_norm(done.hidden_states[layer][:, -1].float(), states.shape[-1:]).cpu()
        return list(zip(logprobs, states, strict=True))

    def _copies(self, rows: int) -> Any:
        """The prefix's keys and values for each row; a copy, because a model appends to what it is given."""
        if self._cache is None:
            return None
        copies = copy.deepcopy(self._cache)
        copies.batch_repeat_interleave(rows)
        return copies


def common_prefix(rows: Sequence[Ids]) -> Ids:
    """The tokens all rows begin with; at least one of each row is left over."""
    shortest, longest = min(rows), max(rows)
    limit = min(map(len, rows)) - 1
    same = next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), limit)
    return list(shortest[: max(0, min(same, limit))])


def left_padded(rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """(batch, length) ids and mask; padding stands on the left, so that all rows end together."""
    length = max(map(len, rows))
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, length - len(row) :] = torch.tensor(row)
        mask[i, length - len(row) :] = 1
    return ids, mask
