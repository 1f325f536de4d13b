"""The openai teacher against a real HTTP server that misbehaves in every known way."""

from __future__ import annotations

import logging
import math
import time

import pytest
from tests.teach.conftest import ROWS, FakeEndpoint, completion, example, settings

from tamis.errors import AuthError, ConfigError, TeacherError
from tamis.policy import Policy
from tamis.records import TeacherSignal
from tamis.store import Store
from tamis.teach import make_teacher

PROBE = "今天天气不错。"


def ask(
    endpoint: FakeEndpoint, policy: Policy, store: Store | None = None, **changes: object
) -> dict[str, TeacherSignal]:
    teacher = make_teacher(settings(endpoint, **changes), policy, (), store)
    return {signal.example_id: signal for signal in teacher.ask(ROWS)}


def test_logprobs_keep_the_missing_mass(endpoint: FakeEndpoint, policy: Policy) -> None:
    signals = ask(endpoint, policy)
    assert len(signals) == len(ROWS)
    gambling = signals[ROWS[2].id]
    assert gambling.method == "logprobs"
    assert gambling.outcome == "ok"
    assert gambling.probabilities["gambling"] == pytest.approx(0.7)
    assert gambling.known_mass == pytest.approx(0.9)
    assert gambling.risk == pytest.approx(0.7 / 0.9)
    assert (gambling.prompt_tokens, gambling.completion_tokens) == (50, 1)


def test_pitfall_4_logprobs_are_asked_at_temperature_1(endpoint: FakeEndpoint, policy: Policy) -> None:
    ask(endpoint, policy)
    assert len(endpoint.bodies) == len(ROWS) + 1
    assert all(
        (body["temperature"], body["top_logprobs"], body["max_tokens"]) == (1, 20, 1) for body in endpoint.bodies
    )


def test_concurrency_is_bounded_and_reached(endpoint: FakeEndpoint, policy: Policy) -> None:
    endpoint.rule = lambda _body, _text, _times: time.sleep(0.05)
    ask(endpoint, policy, concurrency=3)
    assert endpoint.most_flying == 3


def test_429_waits_as_long_as_it_is_told(endpoint: FakeEndpoint, policy: Policy) -> None:
    busy = ROWS[1].text

    def rule(_body: object, text: str, times: int) -> object:
        return (429, {"error": {"message": "slow down"}}, {"Retry-After": "1"}) if text == busy and times == 1 else None

    endpoint.rule = rule
    start = time.monotonic()
    signals = ask(endpoint, policy)
    assert time.monotonic() - start >= 1
    assert signals[ROWS[1].id].outcome == "ok"
    assert endpoint.asked[busy] == 2


def test_500_is_retried_then_failed(endpoint: FakeEndpoint, policy: Policy) -> None:
    def rule(_body: object, text: str, times: int) -> object:
        if text == ROWS[0].text and times == 1:
            return 500, {"error": {"message": "oops"}}, {}
        return (503, {"error": {"message": "oops"}}, {}) if text == ROWS[3].text else None

    endpoint.rule = rule
    signals = ask(endpoint, policy, retries=1)
    assert signals[ROWS[0].id].outcome == "ok"
    assert signals[ROWS[3].id].outcome == "failed"
    assert signals[ROWS[3].id].risk is None
    assert endpoint.asked[ROWS[3].text] == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_at_once(endpoint: FakeEndpoint, policy: Policy, status: int) -> None:
    endpoint.rule = lambda *_: (status, {"error": {"message": "bad key sk-secret"}}, {})
    with pytest.raises(AuthError, match=rf"refuses the key \({status}\): check \$OPENAI_API_KEY") as caught:
        ask(endpoint, policy)
    assert "sk-secret" not in str(caught.value)
    assert endpoint.asked.total() == 1


def test_an_unknown_model_stops(endpoint: FakeEndpoint, policy: Policy) -> None:
    endpoint.rule = lambda *_: (404, {"error": {"message": "no"}}, {})
    with pytest.raises(TeacherError, match=r"has no such model \(404\): check teacher.model"):
        ask(endpoint, policy)


def test_nothing_at_the_address(endpoint: FakeEndpoint, policy: Policy) -> None:
    with pytest.raises(
        TeacherError, match=r"cannot reach the teacher at http://127.0.0.1:9/v1 .*check teacher.base_url"
    ):
        ask(endpoint, policy, base_url="http://127.0.0.1:9/v1", retries=0)


def test_no_key_for_openai_itself(policy: Policy, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(AuthError, match=r"\$OPENAI_API_KEY is not set"):
        ask(endpoint, policy, base_url="https://api.openai.com/v1")


def test_pitfall_1_a_refusal_is_data_and_is_not_retried(endpoint: FakeEndpoint, policy: Policy) -> None:
    def rule(_body: object, text: str, _times: int) -> object:
        if text == ROWS[1].text:
            return 400, {"error": {"message": "Content Exists Risk", "code": "invalid_request_error"}}, {}
        if text == ROWS[2].text:
            return 200, completion("", None, finish="content_filter"), {}
        return None

    endpoint.rule = rule
    signals = ask(endpoint, policy)
    assert [signals[row.id].outcome for row in ROWS[:4]] == ["ok", "refused", "refused", "ok"]
    assert signals[ROWS[1].id].probabilities == {}
    assert endpoint.asked[ROWS[1].text] == 1
    assert all(len(body["messages"]) == 2 for body in endpoint.bodies), "one text a request"


def test_an_ordinary_400_is_a_failure_not_a_refusal(endpoint: FakeEndpoint, policy: Policy) -> None:
    endpoint.rule = lambda _b, text, _t: (
        (400, {"error": {"message": "maximum context length"}}, {}) if text == ROWS[1].text else None
    )
    assert ask(endpoint, policy)[ROWS[1].id].outcome == "failed"


def test_garbage_is_a_failure_of_that_row(endpoint: FakeEndpoint, policy: Policy) -> None:
    garbage = {ROWS[0].text: b"<html>", ROWS[1].text: b"{}", ROWS[2].text: b'{"choices": [{}]}', ROWS[3].text: b"[1]"}
    endpoint.rule = lambda _b, text, _t: (200, garbage[text], {}) if text in garbage else None
    signals = ask(endpoint, policy)
    assert [signals[row.id].outcome for row in ROWS[:5]] == ["failed"] * 4 + ["ok"]


def test_no_option_among_the_tokens_is_unparsable(endpoint: FakeEndpoint, policy: Policy) -> None:
    endpoint.rule = lambda _b, text, _t: (
        (200, completion("我", [("我", -0.1), ("你", -2.5)]), {}) if text == ROWS[0].text else None
    )
    signal = ask(endpoint, policy)[ROWS[0].id]
    assert (signal.outcome, signal.probabilities, signal.known_mass) == ("unparsable", {}, 0.0)


def test_slow_is_a_failure_of_that_row(endpoint: FakeEndpoint, policy: Policy) -> None:
    endpoint.rule = lambda _b, text, _t: time.sleep(1.5) if text == ROWS[0].text else None
    signals = ask(endpoint, policy, timeout=0.5, retries=0)
    assert signals[ROWS[0].id].outcome == "failed"
    assert signals[ROWS[1].id].outcome == "ok"


NEVER = [("正常", 0.0)] + [(token, -9999.0) for token in ("色情", "赌博")]


@pytest.mark.parametrize("top", [NEVER, None, []], ids=["only-9999", "absent", "empty"])
def test_pitfall_2_unusable_logprobs_fall_back_to_votes(
    endpoint: FakeEndpoint, policy: Policy, top: list[tuple[str, float]] | None
) -> None:
    def rule(_body: object, text: str, times: int) -> object:
        said = "赌博" if "赌博" in text and times % 4 else "正常"
        return 200, completion(said, top), {}

    endpoint.rule = rule
    signals = ask(endpoint, policy, votes=4, concurrency=1)
    gambling = signals[ROWS[2].id]
    assert gambling.method == "votes"
    assert gambling.probabilities["gambling"] == pytest.approx(0.75)
    assert gambling.prompt_tokens == 4 * 50
    assert endpoint.asked[ROWS[2].text] == 4


def test_pitfall_2_words_come_last(endpoint: FakeEndpoint, policy: Policy) -> None:
    def rule(body: dict, text: str, _times: int) -> object:
        if "JSON" not in body["messages"][0]["content"]:
            return 200, completion("这段话看起来没有问题"), {}
        if text == ROWS[0].text:
            return 200, completion("我觉得正常"), {}
        return 200, completion('{"正常": 0.25, "赌博": 0.75}'), {}

    endpoint.rule = rule
    signals = ask(endpoint, policy)
    assert signals[ROWS[2].id].method == "verbalised"
    assert signals[ROWS[2].id].probabilities["gambling"] == 0.75
    assert signals[ROWS[0].id].outcome == "unparsable"


def test_no_way_to_answer_is_one_sentence(endpoint: FakeEndpoint, policy: Policy) -> None:
    endpoint.rule = lambda *_: (200, completion("我不知道"), {})
    with pytest.raises(TeacherError, match="answers the test question in no usable way"):
        ask(endpoint, policy)


def test_a_sick_endpoint_is_not_taken_for_one_without_logprobs(endpoint: FakeEndpoint, policy: Policy) -> None:
    endpoint.rule = lambda *_: (500, {"error": {"message": "oops"}}, {})
    with pytest.raises(TeacherError, match="status 500"):
        ask(endpoint, policy, retries=0)


def test_fewer_top_logprobs_where_20_are_refused(endpoint: FakeEndpoint, policy: Policy) -> None:
    endpoint.rule = lambda body, _text, _times: (
        (400, {"error": {"message": "top_logprobs must be at most 5"}}, {}) if body.get("top_logprobs") == 20 else None
    )
    assert ask(endpoint, policy)[ROWS[0].id].method == "logprobs"
    assert endpoint.bodies[-1]["top_logprobs"] == 5


def test_the_probe_is_noted(endpoint: FakeEndpoint, policy: Policy, store: Store) -> None:
    ask(endpoint, policy, store)
    ask(endpoint, policy, store)
    assert endpoint.asked[PROBE] == 1


def test_pitfall_3_orders_are_rotated_and_averaged(endpoint: FakeEndpoint, policy: Policy) -> None:
    def rule(body: dict, _text: str, _times: int) -> object:
        first = body["messages"][0]["content"].rsplit("：", 1)[1].split("、")[0]
        return 200, completion(first, [(first, math.log(0.8))]), {}

    endpoint.rule = rule
    signal = ask(endpoint, policy, orders=2)[ROWS[0].id]
    assert signal.probabilities["normal"] == pytest.approx(0.4)
    assert signal.probabilities["abuse"] == pytest.approx(0.4)
    assert signal.prompt_tokens == 100


def test_a_policy_of_several_labels_is_asked_in_words(endpoint: FakeEndpoint, policy: Policy) -> None:
    several = policy.model_copy(update={"kind": "multi_label"})
    rest = '"正常": 0, "色情": 0, "辱骂": 0, "欺诈": 0.1'
    # What leaves a category out has not judged it, which is no probability of 0.
    partly = ROWS[1].text
    endpoint.rule = lambda _b, text, _t: (
        (200, completion('{"赌博": 0.9, "广告": 0.8' + ("}" if text == partly else f", {rest}}}")), {})
    )
    signals = ask(endpoint, several)
    assert signals[ROWS[1].id].outcome == "unparsable"
    signal = signals[ROWS[0].id]
    assert signal.method == "verbalised"
    assert (signal.probabilities["gambling"], signal.probabilities["spam_ad"], signal.risk) == (0.9, 0.8, 0.9)
    with pytest.raises(ConfigError, match="set it to verbalised or auto"):
        ask(endpoint, several, method="votes")


def test_neither_text_nor_key_is_logged(
    endpoint: FakeEndpoint, policy: Policy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    endpoint.rule = lambda _b, text, _t: (500, {"error": {"message": text}}, {}) if "赌博" in text else None
    with caplog.at_level(logging.INFO):
        ask(endpoint, policy, retries=1)
    assert "sk-very-secret" not in caplog.text
    assert not any(row.text in caplog.text for row in ROWS)


def test_the_fingerprint_names_what_changes_answers(endpoint: FakeEndpoint, policy: Policy) -> None:
    def name(gold: tuple = (), **changes: object) -> str:
        return make_teacher(settings(endpoint, **changes), policy, gold).fingerprint

    gold = (example("赌一把", "gambling"), example("你好", "normal"))
    shot = {"few_shot": {"kind": "fixed", "n": 2}}
    assert name() == name(concurrency=9, retries=0, prior_correction=True)
    different = [
        name(),
        name(model="b"),
        name(language="en"),
        name(orders=2),
        name(gold, **shot),
        name(gold[:1], **shot),
    ]
    assert len(set(different)) == len(different)
