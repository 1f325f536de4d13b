from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import ConfigError
from tamis.policy import Policy, load_policy
from tamis.windows import Encoder, overlapping, probabilities_of, scores_of, worst


@given(st.lists(st.integers(0, 9), max_size=200), st.integers(4, 50))
def test_pitfall_19_windows_cover_the_whole_text(ids: list[int], size: int) -> None:
    windows = overlapping(ids, size)
    assert all(len(window) <= size for window in windows)
    assert windows[0] == ids[:size]
    assert windows[-1] == ids[-size:] if ids else windows == [[]]
    if len(ids) > size:
        assert sum(map(len, windows)) >= len(ids)


def test_the_template_frames_every_window(tokenizer: Path) -> None:
    encoder = Encoder.from_file(tokenizer / "tokenizer.json", "query: {text}", 24)
    windows = encoder.encode(["今天天气很好" * 10, "nice", ""])
    head = encoder.tokenizer.encode("query: ").ids
    assert all(ids[: len(head)] == head for ids in windows.ids)
    assert max(map(len, windows.ids)) <= 24
    assert set(windows.owner) == {0, 1, 2}
    assert windows.owner.count(0) > 1


def test_it_is_told_where_the_windows_of_a_long_text_are(tokenizer: Path, small_policy: Policy) -> None:
    encoder = Encoder.from_file(tokenizer / "tokenizer.json", "{text}", 24)
    text = "\ud800" + "今天天气很好，注册就送彩金。" * 8
    windows = encoder.encode(["nice", text])
    spans = [tuple(map(int, place.removeprefix("characters ").split(" to "))) for place in windows.places[1:]]
    assert windows.places[0] == ""
    assert (spans[0][0], spans[-1][1], len(spans)) == (0, len(text), windows.owner.count(1))
    assert all(start < before_end < end for (_, before_end), (start, end) in pairwise(spans))
    for ids, (start, end) in zip(windows.ids[1:], spans, strict=True):
        # A window may begin or end within a character.
        inside = encoder.tokenizer.decode(ids).strip("\ufffd")
        assert inside in ("?" + text[1:])[start:end]
        assert end - start - len(inside) <= 2
    # The second text's riskiest window is its third.
    logits = np.zeros((len(windows.ids), 3), dtype=np.float32)
    logits[3, 1] = 5
    assert [one.evidence for one in scores_of(logits, windows.owner, small_policy, 1.0, windows.places)] == [
        (),
        (windows.places[3],),
    ]


def test_a_lone_surrogate_and_a_nul_are_encoded(tokenizer: Path) -> None:
    encoder = Encoder.from_file(tokenizer / "tokenizer.json", "{text}", 24)
    assert len(encoder.encode(["\ud800", "a\0b"]).ids) == 2


def test_the_same_tokenizer_is_read_once(tokenizer: Path, tmp_path: Path) -> None:
    content = (tokenizer / "tokenizer.json").read_text(encoding="utf-8")
    copy, other = tmp_path / "copy.json", tmp_path / "other.json"
    copy.write_text(content, encoding="utf-8")
    other.write_text(content + "\n", encoding="utf-8")
    first, same, new = (Encoder.from_file(path, "{text}", 24) for path in (tokenizer / "tokenizer.json", copy, other))
    assert first.tokenizer is same.tokenizer
    assert first.tokenizer is not new.tokenizer


def test_an_empty_text_has_one_token_to_judge(tokenizer: Path) -> None:
    encoder = Encoder.from_file(tokenizer / "tokenizer.json", "{text}", 24)
    assert [len(ids) for ids in encoder.encode(["", "a"]).ids] == [1, 1]


def test_pitfall_20_another_template_has_another_hash(tokenizer: Path) -> None:
    make = Encoder.from_file
    path = tokenizer / "tokenizer.json"
    assert make(path, "{text}", 24).template_hash != make(path, "text: {text}", 24).template_hash
    assert make(path, "{text}", 24).template_hash != make(path, "{text}", 32).template_hash


@pytest.mark.parametrize(("template", "size"), [("no slot", 24), ("{text}{text}", 24), ("{text}", 3)])
def test_a_template_that_cannot_work_is_refused(tokenizer: Path, template: str, size: int) -> None:
    with pytest.raises(ConfigError, match=r"student\.(template|max_tokens)"):
        Encoder.from_file(tokenizer / "tokenizer.json", template, size)


def test_pitfall_18_large_logits_neither_tie_nor_overflow(small_policy: Policy) -> None:
    rows = probabilities_of(np.array([[900.0, 899.99, -900.0]], dtype=np.float32), small_policy)
    assert np.isfinite(rows).all()
    assert rows[0, 0] > rows[0, 1] > rows[0, 2]


def test_the_worst_window_speaks_for_the_text(small_policy: Policy) -> None:
    rows = np.array([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.6, 0.2, 0.2]], dtype=np.float32)
    np.testing.assert_array_equal(worst(rows, [0, 0, 1], small_policy), rows[[1, 2]])


def test_temperature_softens_and_keeps_the_order(small_policy: Policy) -> None:
    logits = np.array([[3.0, 0.0, 1.0]], dtype=np.float32)
    hot, cold = (scores_of(logits, [0], small_policy, t)[0] for t in (2.0, 1.0))
    assert hot.category == cold.category == small_policy.ids[0]
    assert hot.risk > cold.risk


def test_of_levels_the_window_of_the_highest_expected_severity_speaks() -> None:
    policy = load_policy("severity")
    # 0.5 / 3 * 3 = 0.5 against 0.9 / 3 = 0.3: the first is more often harmless and still worse.
    rows = np.array([[0.5, 0.0, 0.0, 0.5], [0.1, 0.9, 0.0, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(worst(rows, [0, 0], policy), rows[[0]])
    assert scores_of(np.log(rows[:1] + 1e-9), [0], policy)[0].risk == pytest.approx(0.5, abs=1e-6)
