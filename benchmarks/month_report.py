"""The page about a simulated month: each figure beside its bar."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traffic import CHANGED, DISGUISED, WEEKS

MINUTES, NEW_F1, LOSS = 30.0, 0.8, 0.01
Found = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """What was to be shown, what was seen, and whether that is enough."""

    what: str
    seen: str
    met: bool


def bars(found: Found, options: argparse.Namespace) -> list[Bar]:
    """Every figure that has a bar."""
    return [*_drift(found), *_update(found, options), *_swap(found)]


def _drift(found: Found) -> Iterator[Bar]:
    for number in (CHANGED, DISGUISED):
        fresh = raised_in(found, number)
        first = next((day for day, one in enumerate(_days(found, number), 1) if set(one["alarms"]) & fresh), None)
        seen = f"day {first}: {', '.join(sorted(fresh))}" if fresh else "none"
        yield Bar(f"an alarm begins in the week “{WEEKS[number]}”", seen, bool(fresh))
    daily = [one["alarms"] for number in (1, 5) for one in _days(found, number)]
    drawn = found["calm-before"]["looks"] + found["calm-after"]["looks"]
    for what, looks in (("daily looks at calm weeks", daily), ("looks at calm weeks drawn anew", drawn)):
        false = sum(bool(alarms) for alarms in looks)
        yield Bar(f"no alarm at {what}", f"{false} of {len(looks)}", false == 0)
    yield _states(found)


def _states(found: Found) -> Bar:
    weeks = found["states"]["weeks"]
    moved = [number for number, (distance, limit) in enumerate(weeks) if distance >= limit]
    seen = ", ".join(f"{distance:.3f} of {limit:.3f}" for distance, limit in weeks)
    what = "hidden states have moved in the weeks that changed and in no other"
    return Bar(what, f"weeks {moved}; {seen}", moved == [CHANGED, DISGUISED])


def raised_in(found: Found, number: int) -> set[str]:
    """The alarms that began in a week."""
    stood = {key for one in _days(found, number - 1)[-1:] for key in one["alarms"]}
    return {key for one in _days(found, number) for key in one["alarms"]} - stood


def _days(found: Found, number: int) -> Sequence[Found]:
    every = found["weeks-before"]["weeks"] + found["weeks-after"]["weeks"]
    days: Sequence[Found] = every[number]["days"] or ()
    return days


def _update(found: Found, options: argparse.Namespace) -> Iterator[Bar]:
    review, changes = found["review"], found["fresh"]["changes"]
    counted = f"{review['verdicts']}, {review['counts'][options.new]} of them {options.new}"
    yield Bar(f"at most {options.reviews} verdicts of people", counted, review["verdicts"] <= options.reviews)
    minutes = found["update"]["total"] / 60
    yield Bar(f"the update takes under {MINUTES:.0f} min", f"{minutes:.1f} min", minutes < MINUTES)
    new = changes[options.new]["after"]
    yield Bar(f"F1 of {options.new} on fresh texts is at least {NEW_F1}", f"{new:.3f}", new >= NEW_F1)
    lost = {name: one["after"] - one["before"] for name, one in changes.items() if name != options.new}
    worst = min(lost, key=lambda name: lost[name])
    seen = f"{100 * lost[worst]:+.1f} points ({worst})"
    yield Bar("no old class loses more than a point of F1", seen, lost[worst] >= -LOSS)


def _swap(found: Found) -> Iterator[Bar]:
    swap = found["swap"]
    tallies = [swap["promoting"], swap["returning"]]
    sent = sum(one["sent"] for one in tallies)
    good = sum(one["statuses"].get("200", 0) for one in tallies)
    yield Bar("every request under load is answered", f"{good} of {sent}", good == sent)
    silent = sum(one["unanswered"] for one in tallies) + abs(swap["not_logged"])
    yield Bar("no text is without an answer, or without its row in the log", f"{silent} are", silent == 0)
    mixed = sum(one["mixed"] for one in tallies)
    known = {swap["old"], swap["new"]} == {name for one in tallies for name in one["models"]}
    yield Bar("each request is answered by one of the two bundles", f"{mixed} by both", mixed == 0 and known)
    same = "the same" if swap["rollback_same"] else "others"
    told = f"{swap['probes']} probes: {same} to the bit"
    yield Bar("a rollback restores the answers", told, swap["rollback_same"] and swap["candidate_differs"])
    models = {name for one in found["weeks-after"]["weeks"] for name in one["models"]}
    yield Bar("a promotion outlives a restart", ", ".join(sorted(models)), models == {swap["new"]})


def write_report(found: Found, options: argparse.Namespace) -> str:
    """Write OUT/report.md and OUT/figures.json; returns the page."""
    every = bars(found, options)
    settings = {name: str(value) for name, value in vars(options).items() if name != "out"}
    figures = {"options": settings, "bars": [vars(bar) for bar in every], **found}
    (options.out / "figures.json").write_text(json.dumps(figures, ensure_ascii=False, indent=1), encoding="utf-8")
    page = "\n".join(_page(every, found, options)) + "\n"
    (options.out / "report.md").write_text(page, encoding="utf-8")
    return page


def _page(every: Sequence[Bar], found: Found, options: argparse.Namespace) -> Iterator[str]:
    met = sum(bar.met for bar in every)
    yield from ("# A month of moderation", "", f"{met} of {len(every)} bars are met.", "")
    yield from _table("bar|seen|met", ([bar.what, bar.seen, "yes" if bar.met else "**no**"] for bar in every))
    yield from ("## Traffic and alarms", "")
    yield from _table("week|texts|audited|alarms at its end", _week_rows(found))
    yield from ("## Reviews", "", f"{found['review']['audited']} of the audit, {found['review']['chosen']} chosen.", "")
    yield from _table("category|verdicts", ([name, str(n)] for name, n in found["review"]["counts"].items()))
    refused = ", ".join(found["update"]["refused"]) or "nothing"
    yield from ("## Update", "", f"Seconds of each stage; what it says may not follow: {refused}.", "")
    yield from _table("stage|seconds", ([name, f"{s:.0f}"] for name, s in found["update"]["seconds"].items()))
    rows, changes = found["fresh"]["rows"], found["fresh"]["changes"]
    yield from (f"## F1 on {rows} fresh texts", "", "Bounds of the change are one-sided, 95 % each, paired.", "")
    yield from _table("category|texts|old|new|change|bounds|outcome", (_change(n, one) for n, one in changes.items()))
    yield from ("## Hot swap", "", f"Live and shadow agreed as {json.dumps(found['swap']['agreement'])}.", "")
    tallies = ((name, found["swap"][name]) for name in ("promoting", "returning"))
    rows_ = ([name, str(one["sent"]), json.dumps(one["statuses"]), json.dumps(one["models"])] for name, one in tallies)
    yield from _table("load|requests|by status|texts by bundle", rows_)


def _week_rows(found: Found) -> Iterator[list[str]]:
    every = found["weeks-before"]["weeks"] + found["weeks-after"]["weeks"]
    for number, one in enumerate(every):
        last = _days(found, number)[-1:]
        alarms = ", ".join(last[0]["alarms"]) or "none" if last else "pinned"
        yield [f"{number} {WEEKS[number]}", str(one["texts"]), str(one["audited"]), alarms]


def _change(name: str, one: Found) -> list[str]:
    change, bounds = one["after"] - one["before"], f"{100 * one['low']:+.1f} to {100 * one['high']:+.1f}"
    return [
        name,
        str(one["rows"]),
        f"{one['before']:.3f}",
        f"{one['after']:.3f}",
        f"{100 * change:+.1f}",
        bounds,
        one["outcome"],
    ]


def _table(heads: str, rows: Iterator[list[str]]) -> Iterator[str]:
    names = heads.split("|")
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
