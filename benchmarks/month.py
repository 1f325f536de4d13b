"""A month of moderation end to end, with the real parts, held against its bars.

    python benchmarks/month.py --train train.jsonl.gz --dev dev.jsonl.gz --test test.jsonl.gz --new self_harm

Labelled rows (`text`, `label` of the default policy) stand for the traffic. An encoder that does not know the category
`--new` is trained and served by `tamis serve`; six weeks of traffic go through it: one that is pinned, a calm one, one
in which the new category comes, one in which harmful texts are disguised, and after the update one that is pinned again
and a calm one. In between, 300 texts are reviewed, `tamis update` makes the next model from them, and it is loaded,
shadowed, promoted and rolled back under load. The report is OUT/report.md, its figures OUT/figures.json.

A service stamps its decisions with the time of now, so they are copied to a calendar, a store in which each week lies
in a week of its own; whoever audits and monitors works there. Killed and started again, every step goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from month_report import write_report
from retention import RECIPES, run
from rows import read_rows, write_rows
from swap import Running, send, serving, swap
from traffic import CHANGED, DISGUISED, WEEKS, Text, divided, weeks_of

from tamis import reviews
from tamis.calibration import Floats
from tamis.config import PromotionConfig
from tamis.decisions import DecisionLog
from tamis.feedback import gather, write_feedback
from tamis.judge.update.compare import Asked, compare
from tamis.policy import load_policy
from tamis.recipe import load_update
from tamis.records import Decision, Example, content_id
from tamis.reviews import Judgement, Wanted
from tamis.ship import monitor
from tamis.ship.bundle import load_bundle
from tamis.ship.next_reviews import Wish, pick
from tamis.ship.service.answers import recorded
from tamis.store import Store
from tamis.update import update
from tamis.workspace import finished

START = datetime(2026, 3, 2, tzinfo=UTC)
KEEP_DAYS, DAYS, REPEATS = 90, 7, 10
BEFORE, AFTER = range(4), range(4, 6)
STUDENT = (
    "student.model=multilingual-e5-small",
    "student.max_tokens=96",
    "student.lora.layers=6",
    "data.split.test=0",
    "train.epochs=5",
    "gate.macro_f1=null",
    "evaluate.baselines=[]",
)
Found = dict[str, Any]


class Month:
    """Options, folders and rows of one simulation."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.new = options, options.new
        self.out: Path = options.out
        self.policy = load_policy("default")
        self.base, self.update = self.out / "base", self.out / "update"
        self.calendar, self.served = self.out / "calendar.sqlite", self.out / "service.sqlite"
        self.gold, self.rest = divided(read_rows(options.train), self.new, options.gold_rows)

    @cached_property
    def weeks(self) -> list[list[Text]]:
        """The traffic, see `WEEKS`."""
        asked = self.options
        return weeks_of(self.rest, self.new, self.policy.benign, asked.rows_a_week, asked.new_share, asked.seed)

    @cached_property
    def truth(self) -> Mapping[str, str]:
        """What each text of the traffic is, by content."""
        return {text.id: text.label for week in self.weeks for text in week}

    def path(self, name: str) -> Path:
        """Where it is kept what a step found."""
        return self.out / f"{name}.json"

    def once(self, name: str, work: Callable[[], Found]) -> Found:
        """What a step found; it is done where it was not before."""
        path = self.path(name)
        if not path.exists():
            half = path.with_suffix(".partial")
            half.write_text(json.dumps(work(), ensure_ascii=False, indent=1), encoding="utf-8")
            half.replace(path)
        found: Found = json.loads(path.read_text(encoding="utf-8"))
        return found

    def states(self, number: int, folder: Path) -> Floats:
        """Hidden states of a week's texts in the bundle of a run, shape (texts, width)."""
        path = self.out / f"states-{folder.name}-{number}.npy"
        if not path.exists():
            texts = [text.text for text in self.weeks[number]]
            found = load_bundle(folder / "bundle").scores_and_states(texts, [-1])[1]
            half = path.with_suffix(".partial.npy")
            np.save(half, found[:, 0].astype(float))
            half.replace(path)
        kept: Floats = np.load(path)
        return kept


def train(month: Month) -> Found:
    """The first model, which does not know the new category."""
    write_rows(month.gold, month.out / "gold.jsonl")
    write_rows([row for row in read_rows(month.options.dev) if row["label"] != month.new], month.out / "dev.jsonl")
    sources = [{"path": str(month.out / "gold.jsonl")}, {"path": str(month.out / "dev.jsonl"), "split": "test"}]
    only = [name for name in month.policy.ids if name != month.new]
    settings = (f"policy.only={json.dumps(only)}", *STUDENT, *month.options.base_set)
    metrics = run("gold-only.yaml", month.base, sources, *settings)
    return {"rows": len(month.gold), "macro_f1": metrics["models"]["student"]["metrics"]["macro_f1"]}


def weeks_before(month: Month) -> Found:
    """The weeks of the first model."""
    return _weeks(month, BEFORE, month.served)


def weeks_after(month: Month) -> Found:
    """The weeks of the second model: the service is started as before, and remembers what was promoted."""
    return _weeks(month, AFTER, month.out / "swap.sqlite")


def _weeks(month: Month, numbers: Sequence[int], store: Path) -> Found:
    with serving(month.base / "bundle", store, month.options.audit) as service:
        found = [month.once(f"week-{number}", partial(week, month, service, number)) for number in numbers]
    return {"weeks": [{name: one.get(name) for name in ("texts", "audited", "models", "days")} for one in found]}


def week(month: Month, service: Running, number: int) -> Found:
    """One week: decided, copied to the calendar, audited and looked at day by day; or pinned."""
    print(f"  week {number}: {WEEKS[number]}", flush=True)
    texts = month.weeks[number]
    decisions = send(service, [text.text for text in texts], f"week-{number}")
    with Store.open(month.calendar) as store:
        ids = written(store, texts, decisions, number)
        audited = audit(month, store, moment(number, DAYS))
        models = sorted({one.versions["model"] for one in decisions})
        found: Found = {"ids": ids, "texts": len(texts), "audited": audited, "models": models}
        if WEEKS[number].startswith("pinned"):
            monitor.pin(store, month.policy, moment(number, DAYS), DAYS)
            return found
        return found | {"days": [look(month, store, moment(number, day)) for day in range(1, DAYS + 1)]}


def moment(number: int, days: float) -> datetime:
    """So many days after a week began."""
    return START + timedelta(days=DAYS * number + days)


def written(store: Store, texts: Sequence[Text], decisions: Sequence[Decision], number: int) -> list[str]:
    """Put a week's decisions evenly into the week of a calendar; returns their ids there."""
    now = [moment(number, 0)]
    with DecisionLog(store, KEEP_DAYS, lambda: now[0]) as log:
        waiting = []
        for place, (text, decision) in enumerate(zip(texts, decisions, strict=True)):
            now[0] = moment(number, DAYS * place / len(texts))
            waiting.append(log.add(decision, text.text, f"week-{number}-{place}"))
        return [one.result(60).id for one in waiting]


def audit(month: Month, store: Store, now: datetime) -> int:
    """The random audit of what passed is read at the end of the week; returns how many texts that were."""
    reviews.fill(store, now)
    return judged(month, store, Wanted(cause="audit"), now)


def judged(month: Month, store: Store, wanted: Wanted, now: datetime) -> int:
    """Reviewers say of all that waits what it truly is; returns how many texts that were."""
    items = defaultdict(list)
    for item in reviews.listing(store, wanted, limit=10**6):
        items[month.truth[item.content]].append(item.id)
    return sum(len(reviews.judge(store, ids, Judgement("ann", label), now)) for label, ids in items.items())


def look(month: Month, store: Store, until: datetime) -> Found:
    """What `tamis monitor` sees in the seven days before a time."""
    found = monitor.watch(store, month.policy, until, DAYS)
    measures = {one.key: [one.tested, one.limit] for one in found.measures if one.limit is not None}
    return {"until": until.isoformat(), "alarms": [one.key for one in found.alarms], "measures": measures}


def calm_before(month: Month) -> Found:
    """Looks at calm weeks of the first model."""
    return calm(month, *BEFORE[:2])


def calm_after(month: Month) -> Found:
    """Looks at calm weeks of the second model."""
    return calm(month, *AFTER)


def calm(month: Month, first: int, second: int) -> Found:
    """The texts of two like weeks, divided anew at random into one that is pinned and one that is looked at."""
    with Store.open(month.calendar) as store:
        told = [pair for number in (first, second) for pair in _logged(month, store, number)]
    alarms = []
    for seed in range(REPEATS):
        random.Random(seed).shuffle(told)
        with TemporaryDirectory() as folder, Store.open(Path(folder) / "calm.sqlite") as store:
            for number, part in enumerate((told[: len(told) // 2], told[len(told) // 2 :])):
                written(store, [text for text, _ in part], [decision for _, decision in part], number)
            monitor.pin(store, month.policy, moment(0, DAYS), DAYS)
            alarms.append(look(month, store, moment(1, DAYS))["alarms"])
    return {"looks": alarms}


def _logged(month: Month, store: Store, number: int) -> list[tuple[Text, Decision]]:
    """A week's texts and what was decided, as the calendar has it."""
    ids = month.once(f"week-{number}", dict)["ids"]
    found = recorded(store, ids)
    return [(text, found[one]) for text, one in zip(month.weeks[number], ids, strict=True)]


def states(month: Month) -> Found:
    """For who keeps hidden states: how well those of each week can be told from those of the pinned week."""
    found = []
    for numbers, folder in ((BEFORE, month.base), (AFTER, month.update)):
        told = [month.states(number, folder) for number in numbers]
        found += [monitor.states(told[0], one) for one in told]
    return {"weeks": [[one.tested, one.limit] for one in found]}


def review(month: Month) -> Found:
    """300 verdicts in all: the audits so far, and of the weeks that raised an alarm what is most worth a look."""
    now = moment(DISGUISED, DAYS)
    with Store.open(month.calendar) as store:
        before = [one for one in reviews.verdicts(store) if one.cause != "selected"]
        if not month.once("chosen", lambda: {"ids": chosen(month, store, month.options.reviews - len(before))})["ids"]:
            raise SystemExit("the audits took all --reviews: raise it, or lower --audit")
        ids = month.once("chosen", dict)["ids"]
        # After a kill some may wait already, or be judged.
        known = {one.decision for one in reviews.listing(store, Wanted(cause="selected"), limit=10**6)}
        known |= {one.decision for one in reviews.verdicts(store)}
        reviews.queue(store, [one for one in ids if one not in known], now=now)
        judged(month, store, Wanted(cause="selected"), now)
        write_feedback(month.out / "feedback.jsonl", gather(store, month.policy).feedback, "jsonl")
        said = [one.verdict for one in reviews.verdicts(store)]
    counts = {name: said.count(name) for name in month.policy.ids}
    return {"verdicts": len(said), "audited": len(before), "chosen": len(ids), "counts": counts}


def chosen(month: Month, store: Store, count: int) -> list[str]:
    """Decisions to review: of the weeks that raised an alarm what is typical of them and not of the pinned week."""
    wish = Wish(moment(CHANGED, 0), moment(DISGUISED, DAYS), ("now",), count, rare=0)
    return list(pick(store, month.policy, wish, load_bundle(month.base / "bundle")).ids)


def next_model(month: Month) -> Found:
    """`tamis update` from the reviews; how long it took, and what it says of itself."""
    source = json.dumps([{"path": str(month.out / "feedback.jsonl"), "lang": "lang"}])
    where = [f"bundle={month.base / 'bundle'}", f"run={month.base}", f"out={month.update}", "regression=[]"]
    settings = [*where, f"data.sources={source}", *month.options.update_set]
    succession = update(load_update(RECIPES / "update.yaml", settings))
    stages = json.loads((month.update / "stages.json").read_text())
    seconds = {name: finished(month.update, name)["seconds"] for name in stages}
    refused = [f"{name} ({suite.name})" for suite, name, _ in succession.refusals]
    return {"seconds": seconds, "total": sum(seconds.values()), "added": succession.added, "refused": refused}


def fresh(month: Month) -> Found:
    """Both models on texts that nothing was chosen on; the change of each class with its bounds."""
    old, new = load_bundle(month.base / "bundle"), load_bundle(month.update / "bundle")
    rows = read_rows(month.options.test)
    examples = tuple(Example(content_id(r["text"]), r["text"], "zh", "test", label=r["label"]) for r in rows)
    asked = Asked.of("test", "frozen", examples)
    suite = compare(asked, old.score, new.score, month.policy, [month.new], PromotionConfig())
    return {"rows": suite.rows, "changes": {name: asdict(one) for name, one in suite.changes.items()}}


def hot_swap(month: Month) -> Found:
    """The candidate takes the place of the running model under load, and gives it back."""
    store = month.out / "swap.sqlite"
    for path in month.out.glob(f"{store.name}*"):
        path.unlink()  # What was promoted before a kill would be live.
    texts = [row["text"] for row in read_rows(month.options.test)]
    with serving(month.base / "bundle", store, month.options.audit) as service:
        return swap(service, month.update / "bundle", texts)


STEPS: Mapping[str, tuple[float, Callable[[Month], Found]]] = {
    "train": (12, train),
    "weeks-before": (5, weeks_before),
    "calm-before": (1, calm_before),
    "review": (2, review),
    "update": (10, next_model),
    "fresh": (2, fresh),
    "swap": (2, hot_swap),
    "weeks-after": (3, weeks_after),
    "calm-after": (1, calm_after),
    "states": (1, states),
}
"""Each step's minutes on two cores, and what it does."""


def lived(month: Month) -> Found:
    """All steps; before each one that is not done yet it is said how many minutes are left, by the pace so far."""
    left, pace = [name for name in STEPS if not month.path(name).exists()], 1.0
    while left:
        minutes, work = STEPS[left[0]]
        rest = sum(STEPS[name][0] for name in left) * pace
        print(f"[{len(STEPS) - len(left) + 1}/{len(STEPS)}] {left[0]}, about {rest:.0f} min left", flush=True)
        began = time.monotonic()
        month.once(left.pop(0), partial(work, month))
        pace = (time.monotonic() - began) / 60 / minutes
    return {name: month.once(name, dict) for name in STEPS}


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--train", "--dev", "--test"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--new", default="self_harm", help="the category that comes in the third week")
    parser.add_argument("--out", type=Path, default=Path("runs/month"))
    parser.add_argument("--rows-a-week", type=int, default=1500)
    parser.add_argument("--new-share", type=float, default=0.2, help="of the new category in its first week")
    parser.add_argument("--gold-rows", type=int, default=2000, help="rows the first model learns from")
    parser.add_argument("--reviews", type=int, default=300, help="verdicts of people, audits included")
    parser.add_argument("--audit", type=float, default=0.01, help="share of passed texts that is read all the same")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic")
    parser.add_argument("--base-set", nargs="*", default=[], help="settings of the first run, as `tamis run --set`")
    parser.add_argument("--update-set", nargs="*", default=[], help="settings of the update, as `tamis update --set`")
    return parser.parse_args()


def main() -> None:
    """Live through the month, step by step, and report."""
    options = parsed()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Else the service that was started would stay.
    options.out.mkdir(parents=True, exist_ok=True)
    print(write_report(lived(Month(options)), options))


if __name__ == "__main__":
    main()
