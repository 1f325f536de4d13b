"""Alarms with hysteresis, their words, their gauges, and a look at a real log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from tests.waiting import until

from tamis import reviews
from tamis.decisions import DecisionLog, stamp
from tamis.errors import DataError
from tamis.policy import Policy
from tamis.records import AUDIT, Decision, Scores, content_id
from tamis.reviews import Judgement
from tamis.ship.monitor import Alarm, Look, Looking, Measure, gauges, last_look, miss_rate, pin, watch, words
from tamis.ship.monitor.alarms import raised
from tamis.ship.monitor.gauges import GAUGES
from tamis.ship.monitor.look import take_turn
from tamis.ship.monitor.watch import REFERENCE
from tamis.store import Store

START = datetime(2026, 3, 2, tzinfo=UTC)
SLOT = re.compile(r"\{\w+\}")
RULES = Path(__file__).parents[3] / "deploy" / "prometheus" / "tamis-monitor.rules.yaml"


def test_an_alarm_begins_at_its_limit_and_ends_well_below() -> None:
    one = Measure("score_drift", 0.0, 100, {"language": "zh"}, 0.0, 0.2)
    standing: tuple[Alarm, ...] = ()
    seen = []
    for now, value in enumerate((0.19, 0.2, 0.19, 0.17, 0.15, 0.17, 0.21)):
        standing = raised(standing, [replace(one, tested=value)], str(now))
        seen.append([alarm.since for alarm in standing])
    # It begins at .2, stands until it is below .16, and begins anew.
    assert seen == [[], ["1"], ["1"], ["1"], [], [], ["6"]]


def test_an_alarm_stands_while_nothing_can_be_measured() -> None:
    alarm = Alarm("score_drift language=zh", "score_drift", "0")
    assert raised([alarm], [], "1") == (alarm,)
    told = Measure("miss_rate", 0.5, 10)
    assert raised([], [told], "1") == ()


def test_both_languages_say_the_same_and_everything_has_a_next_step() -> None:
    english, chinese = words("en"), words("zh")
    for part in ("names", "marks", "steps", "table"):
        assert english[part].keys() == chinese[part].keys()
    assert set(english["names"]) == set(english["steps"]) == set(GAUGES)
    for key, sentence in english["table"].items():
        assert set(SLOT.findall(sentence)) == set(SLOT.findall(chinese["table"][key])), key
    told = " ".join([*chinese["names"].values(), *chinese["steps"].values()])
    assert re.findall("[\u3400-\u9fff][,;:!?()]|[,;!?(][\u3400-\u9fff]", told) == []


def looked(*measures: Measure, alarms: tuple[Alarm, ...] = (), error: str = "") -> Look:
    time, since = stamp(START + timedelta(days=7)), stamp(START)
    return Look(time, since, 10, error, measures, alarms, (), (), miss_rate([]))


class Collected(Collector):
    def __init__(self, found: Look) -> None:
        self.found = found

    def collect(self) -> Iterator[GaugeMetricFamily]:
        return gauges(self.found)


def test_gauges_can_be_scraped() -> None:
    registry = CollectorRegistry()
    found = looked(
        Measure("score_drift", 0.25, 10, {"category": "fraud", "language": "zh"}, 0.25, 0.2),
        Measure("miss_rate", 0.01, 10, {}, 0.0, 0.005, 0.002, 0.03),
        alarms=(Alarm("score_drift category=fraud language=zh", "score_drift", "0"),),
    )
    registry.register(Collected(found))
    page = generate_latest(registry).decode()
    assert 'tamis_score_psi{category="fraud",language="zh"} 0.25' in page
    assert "tamis_miss_ratio 0.01" in page
    assert 'tamis_miss_ratio_bound{end="high"} 0.03' in page
    assert 'tamis_alarm{measure="score_drift"} 1.0' in page
    assert 'tamis_alarm{measure="miss_rate"} 0.0' in page
    (told,) = [one for one in text_string_to_metric_families(page) if one.name == "tamis_monitor_timestamp_seconds"]
    assert told.samples[0].value == (START + timedelta(days=7)).timestamp()
    assert list(gauges(looked(error="no traffic is pinned"))) == []


def test_of_many_processes_one_looks_and_only_when_it_is_due(url: str) -> None:
    with Store.open(url) as store:
        assert not take_turn(store, 3600, START)
        store.set_note(REFERENCE, {"since": stamp(START), "until": stamp(START)})
        for later in (0, 3600, 7300):
            now = START + timedelta(seconds=later)
            with ThreadPoolExecutor(8) as pool:
                assert sum(pool.map(lambda _, now=now: take_turn(store, 3600, now), range(8))) == 1
            assert not take_turn(store, 3600, now + timedelta(seconds=3599))


def test_a_look_has_a_process_of_its_own_that_can_be_ended(
    tmp_path: Path, small_policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.db"
    with Store.open(path) as store:
        looking = Looking(str(path), 7)
        looking.begin(small_policy)
        assert looking.at_work
        assert until(lambda: last_look(store) is not None)
        assert until(lambda: not looking.at_work)
        made = last_look(store)
        assert made is not None
        assert "no traffic is pinned" in made.error
        assert caplog.messages == []
        looking.begin(small_policy)
        assert until(lambda: looking.end() or not looking.at_work)
        assert caplog.messages == ["a look at the traffic ended with -9: the last one stays"]
        kept = last_look(store)
        assert kept is not None
        assert kept.time == made.time


def test_the_rules_ask_for_gauges_and_measures_there_are() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    assert len(rules) >= 5
    asked = " ".join(rule["expr"] for rule in rules)
    there = {family.name for family in gauges(looked())}
    assert set(re.findall(r"tamis_\w+", asked)) <= there
    named = {name for part in re.findall(r'measure=~?"([^"]+)"', asked) for name in part.split("|")}
    assert named == set(GAUGES)
    assert all(rule["annotations"].keys() == {"summary", "description"} for rule in rules)


def decide(store: Store, start: datetime, rows: int, seed: int, risky: float = 0.0, mark: str = "") -> None:
    """A week of traffic in the log, one in five audited."""
    generator = np.random.default_rng(seed)
    moment = [start]
    with DecisionLog(store, now=lambda: moment[0]) as log:
        futures = []
        for i in range(rows):
            moment[0] = start + timedelta(days=7 * i / rows)
            risk = 0.45 if generator.random() < risky else float(generator.beta(1, 9)) * 0.5
            text = f"{'今天天气' if i % 2 else 'a fine day'} {seed} {i}{mark if i % 4 == 0 else ''}"
            scores = Scores({"normal": 1 - risk, "fraud": risk, "gambling": 0.0}, risk, risk)
            reasons = (AUDIT,) if i % 5 == 0 else ()
            futures.append(
                log.add(
                    Decision(content_id(text), "pass", "normal", scores, {}, ("student",), reasons), text, f"{seed} {i}"
                )
            )
        for future in futures:
            future.result(60)


def test_a_look_at_the_log(url: str, small_policy: Policy) -> None:
    week = timedelta(days=7)
    with Store.open(url) as store:
        decide(store, START, 600, 1)
        with pytest.raises(DataError, match="no traffic is pinned"):
            watch(store, small_policy, START + week, 7)
        with pytest.raises(DataError, match="needs 100 decisions, the 7 days before 2026-03-02T00:00 have 0"):
            pin(store, small_policy, START, 7)
        assert pin(store, small_policy, START + week, 7).rows == 600
        decide(store, START + week, 600, 2)
        assert watch(store, small_policy, START + 2 * week, 7).alarms == ()
        decide(store, START + 2 * week, 600, 3, risky=0.3, mark="加\u200b微\u200b信")
        reviews.fill(store, START + 3 * week)
        items = [one.id for one in reviews.listing(store, limit=1000)]
        reviews.judge(store, items, Judgement("ann", "normal"), START + 3 * week)
        found = watch(store, small_policy, START + 3 * week, 7)
        assert {alarm.name for alarm in found.alarms} >= {"score_drift", "evasion"}
        (misses,) = [one for one in found.measures if one.name == "miss_rate"]
        assert (misses.value, misses.rows) == (0.0, 120)
        again = watch(store, small_policy, START + 3 * week, 7)
        assert again.alarms == found.alarms
        pin(store, small_policy, START + 3 * week, 7)
        # Risks of .45 of which none was harmful are wrong whatever the reference is.
        left = watch(store, small_policy, START + 3 * week, 7).alarms
        assert [alarm.name for alarm in left] == ["calibration_error"]
