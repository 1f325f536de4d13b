from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tamis.config import PromotionConfig
from tamis.errors import ConfigError, PolicyError, PromotionError
from tamis.judge.update.cases import passed_by, read_tests
from tamis.judge.update.compare import Asked, compare, largest_unseen
from tamis.judge.update.diagnosis import diagnose, missed_by
from tamis.judge.update.result import Change, Succession, Suite, require
from tamis.policy import Policy, load_policy
from tamis.records import Example, Scorer, Scores, content_id

QUICK = PromotionConfig(bootstrap=400)


def _rows(counts: Mapping[str, int]) -> tuple[Example, ...]:
    texts = [(f"{label} {i}", label) for label, count in counts.items() for i in range(count)]
    return tuple(Example(content_id(text), text, "en", "made", label=label) for text, label in texts)


def _scorer(policy: Policy, wrong: Mapping[str, str] | None = None) -> Scorer:
    """Names the first word of a text, but for the texts that are judged otherwise."""

    def score(texts: Sequence[str]) -> list[Scores]:
        said = [(wrong or {}).get(text, text.split()[0]) for text in texts]
        return [policy.scores({name: 0.9 if name == one else 0.05 for name in policy.ids}) for one in said]

    return score


def _compared(policy: Policy, counts: Mapping[str, int], wrong: Mapping[str, str], config: PromotionConfig) -> Suite:
    asked = Asked.of("gold", "frozen", _rows(counts))
    return compare(asked, _scorer(policy), _scorer(policy, wrong), policy, (), config)


def test_the_share_that_rows_may_hide_by_hand() -> None:
    assert largest_unseen(1, 0.95) == pytest.approx(0.95)
    assert largest_unseen(2, 0.75) == pytest.approx(0.5)
    assert largest_unseen(298, 0.95) > 0.01 > largest_unseen(299, 0.95)


def test_a_clear_fall_is_shown_and_bounded(small_policy: Policy) -> None:
    wrong = {f"fraud {i}": "normal" for i in range(20)}
    suite = _compared(small_policy, {"normal": 60, "gambling": 60, "fraud": 60}, wrong, QUICK)
    fraud = suite.changes["fraud"]
    assert fraud.rows == 60
    assert (fraud.before, fraud.after) == (1, pytest.approx(2 * 40 / (2 * 40 + 20)))
    assert fraud.low < fraud.after - fraud.before < fraud.high < -0.01
    assert fraud.outcome == "fell"
    assert suite.changes["normal"].outcome == "fell", "what it takes for normal is precision lost"
    assert suite.changes["gambling"].outcome == "open"
    assert suite.changes["gambling"].possible_fall == largest_unseen(60, 0.95)


@pytest.mark.parametrize(
    ("rows", "lost", "outcome"), [(3, 0, "open"), (299, 0, "held"), (298, 0, "open"), (3, 1, "open"), (10, 5, "fell")]
)
def test_what_few_rows_can_and_cannot_show(small_policy: Policy, rows: int, lost: int, outcome: str) -> None:
    wrong = {f"fraud {i}": "gambling" for i in range(lost)}
    suite = _compared(small_policy, {"normal": 5, "fraud": rows}, wrong, QUICK)
    assert suite.changes["fraud"].outcome == outcome
    assert "gambling" not in suite.changes, "a class without a row has nothing to lose"


def test_a_wider_tolerance_never_refuses_more(small_policy: Policy) -> None:
    wrong = {f"fraud {i}": "normal" for i in range(6)}
    order = ["fell", "open", "held"]
    outcomes = [
        _compared(small_policy, {"normal": 40, "fraud": 40}, wrong, PromotionConfig(bootstrap=400, tolerance=t))
        .changes["fraud"]
        .outcome
        for t in (0.0, 0.01, 0.05, 0.2, 0.5)
    ]
    assert outcomes == sorted(outcomes, key=order.index)
    assert outcomes[0] == "fell"
    assert outcomes[-1] == "held"


def test_cases_of_one_template_count_once(small_policy: Policy) -> None:
    rows = _rows({"normal": 40, "fraud": 40})
    alone = Asked.of("t", "functional", rows)
    together = replace(alone, groups=tuple([0] * 40 + [1 + i // 10 for i in range(40)]))
    wrong = {f"fraud {i}": "normal" for i in range(20)}
    changes = [
        compare(asked, _scorer(small_policy), _scorer(small_policy, wrong), small_policy, (), QUICK).changes["fraud"]
        for asked in (alone, together)
    ]
    assert [one.after for one in changes] == [0.5, 0.5], "of functional tests the share passed"
    assert changes[0].outcome == "fell"
    assert changes[1].high > changes[0].high, "four templates show less than forty texts"
    assert changes[1].unseen == largest_unseen(4, 0.95)


def test_a_new_category_has_nothing_to_lose_but_may_be_too_weak(small_policy: Policy) -> None:
    old = small_policy.only(["normal", "gambling"])
    asked = Asked.of("reviewed", "reviewed", _rows({"normal": 10, "fraud": 10}))
    weak = _scorer(small_policy, {f"fraud {i}": "normal" for i in range(6)})

    def outcome(wanted: float | None, kind: str = "reviewed") -> Change:
        config = PromotionConfig(bootstrap=100, new_f1=wanted)
        suite = compare(replace(asked, kind=kind), _scorer(old), weak, small_policy, ("fraud",), config)
        return suite.changes["fraud"]

    assert outcome(None).before == 0
    assert outcome(None).after == pytest.approx(2 * 4 / (2 * 4 + 6))
    assert [outcome(wanted).outcome for wanted in (None, 0.5, 0.8)] == ["new", "new", "short"]
    assert outcome(0.8, "frozen").outcome == "new"


def _succession(changes: Mapping[str, Change], **settings: object) -> Succession:
    told = {"tolerance": 0.01, "confidence": 0.95, "strict": False, "new_f1": None, "bootstrap": 100} | settings
    return Succession("default 1.0", "a", "b", (), {}, suites=(Suite("gold", "frozen", 9, changes),), **told)


def test_who_may_follow_and_who_not() -> None:
    change = Change(9, 1.0, 0.9, -0.2, 0.0, 0.3, "open")
    by_outcome = {name: replace(change, outcome=name) for name in ("open", "held", "new")}
    found = _succession(by_outcome)
    assert found.refusals == []
    require(found, Path("bundle"))
    assert [name for _, name, _ in _succession(by_outcome, strict=True).refusals] == ["open"]
    for outcome in ("fell", "short"):
        with pytest.raises(PromotionError, match=r"may not follow: fraud \(gold\); it is kept as run/bundle") as error:
            require(_succession({"fraud": replace(change, outcome=outcome)}), Path("run/bundle"))
        assert error.value.exit_code == 1


def test_it_goes_to_json_and_back() -> None:
    found = _succession({"fraud": Change(9, float("nan"), 0.9, -0.2, 0.0, 0.3, "new")})
    back = Succession.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert back.to_json() == found.to_json()
    assert back.suites[0].changes["fraud"].before != back.suites[0].changes["fraud"].before


def test_misses_are_the_teachers_or_the_students_alone(small_policy: Policy) -> None:
    rows = _rows({"normal": 2, "gambling": 4, "fraud": 3})
    ids = {row.text: row.id for row in rows}
    old = {row.id: (str(row.label),) for row in rows} | {ids[f"gambling {i}"]: ("normal",) for i in range(3)}
    old |= {ids["fraud 0"]: (), ids["fraud 1"]: ("normal",)}
    teacher = {ids["gambling 0"]: ("normal",), ids["gambling 1"]: ("fraud",), ids["gambling 2"]: ("gambling",)}
    teacher |= {ids["fraud 0"]: ("fraud",)}
    new = {ids["gambling 0"]: ("gambling",), ids["gambling 3"]: ("gambling",), ids["fraud 1"]: ("normal",)}
    assert {row.text for row in missed_by(old, rows, small_policy)} == {
        "gambling 0",
        "gambling 1",
        "gambling 2",
        "fraud 0",
        "fraud 1",
    }
    found = diagnose(rows, old, teacher, new, small_policy, ())
    gambling, fraud = found["gambling"], found["fraud"]
    assert (gambling.rows, gambling.missed, gambling.shared, gambling.alone) == (4, 3, 2, 1)
    assert (gambling.tested, gambling.mended, gambling.advice) == (1, 1, "teacher")
    assert (fraud.missed, fraud.shared, fraud.alone, fraud.tested, fraud.mended) == (2, 0, 1, 1, 0)
    assert fraud.advice == "student"
    assert (found["normal"].missed, found["normal"].advice) == (0, "unasked")
    assert diagnose(rows, old, teacher, new, small_policy, ("fraud",))["fraud"].advice == "new"


FILE = """
slots:
  amount: {en: ["3", "4"], zh: [三百]}
tests:
  mine:
    category: fraud
    about: {en: mine, zh: 我的}
    templates:
      en: ["get {amount} for {amount}", "no slot"]
      zh: ["一天{amount}"]
"""


def test_templates_are_filled_in_every_way_and_each_is_a_group(tmp_path: Path) -> None:
    policy = load_policy("default")
    (tmp_path / "t.yaml").write_text(FILE, encoding="utf-8")
    found = read_tests([str(tmp_path / "t.yaml")], policy)
    cases = [(case.example.text, case.example.lang, case.template) for case in found.cases]
    assert cases == [("get 3 for 3", "en", 0), ("get 4 for 4", "en", 0), ("no slot", "en", 1), ("一天三百", "zh", 2)]
    assert {case.example.label for case in found.cases} == {"fraud"}
    passes = _scorer(policy, {"get 3 for 3": "fraud", "一天三百": "fraud"})
    (one,) = passed_by(
        found, passes, _scorer(policy, dict.fromkeys((text for text, _, _ in cases), "fraud")), policy
    ).values()
    assert (one.cases, one.before, one.after) == (4, 2, 4)
    several = read_tests([str(tmp_path / "t.yaml")], policy.model_copy(update={"kind": "multi_label"}))
    assert several.cases[0].example.labels == ("fraud",)
    assert "gambling" in several.cases[0].example.unknown


def test_the_shipped_tests_fit_the_default_policy_in_both_languages() -> None:
    policy = load_policy("default")
    found = read_tests(["default"], policy)
    assert {test.category for test in found.tests.values()} == set(policy.ids)
    assert len(found.tests) >= 20
    for test in found.tests.values():
        assert set(test.templates) == set(test.about) == {"zh", "en"}
    assert len({case.example.id for case in found.cases}) == len(found.cases) >= 100
    few = read_tests(["default"], policy.only(["normal", "fraud"]))
    assert {test.category for test in few.tests.values()} == {"normal", "fraud"}


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (("{amount} for", "{sum} for"), ConfigError, r"test mine: nothing fills \{sum\} in en: add it to `slots`"),
        (("category: fraud", "category: theft"), PolicyError, "has no category 'theft'"),
        (("about:", "abuot:"), ConfigError, "cannot be used: .*abuot"),
        (("tests:", "tests: ["), ConfigError, "cannot be used"),
    ],
)
def test_a_file_that_is_no_test_is_refused(
    tmp_path: Path, change: tuple[str, str], error: type[Exception], sentence: str
) -> None:
    (tmp_path / "t.yaml").write_text(FILE.replace(*change), encoding="utf-8")
    with pytest.raises(error, match=sentence):
        read_tests([str(tmp_path / "t.yaml")], load_policy("default"))
