"""Tables of a contest: one row a candidate, ready text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from tamis.estimates import Estimate
from tamis.judge.contest.result import METRIC, Change, Confused, Contest, Disagreement, Standing
from tamis.judge.sections import ALL, FIXED, best_of, estimate_cell
from tamis.judge.tables import Named, Table, fact_cells, quantity, timed_cells
from tamis.judge.verdict import chance, number, percent, signed, span
from tamis.judge.words import Words

MAIN = ("accuracy", "macro_recall", "worst_recall", "risk_auroc", "recall_at_fpr_0.01", "ece")
"""Figures beside macro-F1 in the main table; the folded one has all."""
SIZE = ("parameters", "file_size")

Column = Callable[[str, Standing], str]


def standings_table(contest: Contest, words: Words) -> Table:
    """All candidates: macro-F1 with its spread, the change, its tests, and the main figures."""
    columns: dict[str, Column] = {
        words(f"metric_{METRIC}"): _figure(METRIC, words),
        **_tests(contest, words),
        words("contest_spread"): lambda _, one: number(one.spread.get(METRIC, math.nan)),
        words("contest_seeds"): lambda _, one: str(len(one.seeds)),
        words("contest_group"): lambda _, one: one.group,
        **{words(f"metric_{figure}"): _figure(figure, words) for figure in MAIN},
    }
    rows = [
        [words.model(name), *(cell(name, one) for cell in columns.values())] for name, one in contest.standings.items()
    ]
    places = {METRIC: 1, **{figure: len(columns) - len(MAIN) + 1 + i for i, figure in enumerate(MAIN)}}
    chosen = {(i, 0) for i, name in enumerate(contest.standings) if name == contest.best}
    note = words("contest_change_note", against=words.model(contest.against))
    return Table(
        [words("contest_model"), *columns], rows, note=note, bold=frozenset(_stressed(contest, places) | chosen)
    )


def _figure(figure: str, words: Words) -> Column:
    return lambda _, one: estimate_cell(one.metrics.get(figure), words)


def _tests(contest: Contest, words: Words) -> dict[str, Column]:
    """The change against the common rival, by column."""

    def column(cell: Callable[[Change], str]) -> Column:
        def shown(name: str, _: Standing) -> str:
            change = contest.change(name, contest.against)
            return cell(change) if change else words("dash")

        return shown

    return {
        words("contest_change", against=words.model(contest.against)): column(lambda one: _difference(one, words)),
        **{words(key): column(cell) for key, cell in _test_cells(words).items()},
    }


def _test_cells(words: Words) -> dict[str, Callable[[Change], str]]:
    return {
        "compare_sure": lambda one: words("yes" if one.is_sure else "no"),
        "contest_p_bootstrap": lambda one: chance(one.p_bootstrap_holm),
        "contest_p_mcnemar": lambda one: chance(one.p_holm),
    }


def _difference(change: Change, words: Words) -> str:
    return f"{signed(change.difference.value)} ({span(change.difference, words, signed)})"


def _stressed(contest: Contest, places: Mapping[str, int]) -> set[tuple[int, int]]:
    """Cells of the best estimates; `places` says in which column a figure stands."""
    found: set[tuple[int, int]] = set()
    for figure, column in places.items():
        estimates: list[Estimate | None] = [one.metrics.get(figure) for one in contest.standings.values()]
        found |= {(row, column) for row in best_of(figure, estimates)}
    return found


def figures_table(contest: Contest, words: Words) -> Table:
    """Every figure of every candidate."""
    known = [figure for figure in (*ALL, *FIXED) if any(figure in one.metrics for one in contest.standings.values())]
    rows = [
        [words.model(name), *(estimate_cell(one.metrics.get(figure), words) for figure in known)]
        for name, one in contest.ran.items()
    ]
    head = [words("contest_model"), *(words(f"metric_{figure}") for figure in known)]
    return Table(head, rows, title=words("contest_figures"), folded=True)


def others_table(contest: Contest, words: Words) -> Table | None:
    """The comparisons beside those with the common rival; None without any."""
    changes = [one for one in contest.changes if one.second != contest.against]
    cells = _test_cells(words)
    rows = [
        [words.model(one.first), words.model(one.second), _difference(one, words)]
        + [f"{percent(one.retention.value)} ({span(one.retention, words, percent)})"]
        + [cell(one) for cell in cells.values()]
        for one in changes
    ]
    columns = ("contest_model", "contest_rival", "compare_difference", "compare_ratio", *cells)
    title = words("contest_others")
    return Table([words(key) for key in columns], rows, title=title, prose=frozenset({1})) if rows else None


def failed_table(contest: Contest, words: Words) -> Table | None:
    """Runs that are missing and why; None when none is."""
    rows = [
        [words.model(name), str(seed), reason]
        for name, one in contest.standings.items()
        for seed, reason in one.failed.items()
    ]
    head = [words("contest_model"), words("contest_seed"), words("contest_reason")]
    shown = frozenset({2})
    return Table(head, rows, title=words("contest_failures"), prose=shown, wide=shown) if rows else None


def confused_table(changes: Sequence[Confused], words: Words, named: Named) -> Table:
    """Kinds of mistakes before and after, in rows a run."""
    rows = []
    for one in changes:
        counts = (quantity(round(value, 1)) for value in (one.before, one.after))
        rows.append([named(one.truth), named(one.said) if one.said else words("none"), *counts, _added(one.change)])
    head = [words(key) for key in ("mistake_truth", "mistake_said", "contest_before", "contest_after", "contest_added")]
    return Table(head, rows, prose=frozenset({0, 1}))


def _added(change: float) -> str:
    return f"{change:+.1f}".replace("-", "−").removesuffix(".0")


def ranks_table(contest: Contest, names: Sequence[str], words: Words) -> Table:
    """Ranks with their figure and what they train."""
    rows = []
    for name in names:
        one = contest.standings[name]
        trained = one.facts.get("trainable_parameters")
        cells = [estimate_cell(contest.value(name), words), number(one.spread[METRIC])]
        trainable = quantity(trained) if isinstance(trained, int | float) else words("dash")
        rows.append([quantity(float(one.facts["rank"])), words.model(name), *cells, trainable])
    keys = ("fact_rank", "contest_model", f"metric_{METRIC}", "contest_spread", "fact_trainable_parameters")
    return Table([words(key) for key in keys], rows, prose=frozenset({1}))


def cost_table(contest: Contest, words: Words) -> Table:
    """What a caller told of each candidate, but for its size."""
    told = {n: {k: v for k, v in one.facts.items() if k not in SIZE} for n, one in contest.standings.items()}
    return _facts_table({name: fact_cells(facts, words) for name, facts in told.items()}, words)


def size_table(contest: Contest, words: Words) -> Table:
    """Size, latency, throughput and memory."""
    cells = {}
    for name, one in contest.standings.items():
        size = {key: one.facts[key] for key in SIZE if key in one.facts}
        cells[name] = fact_cells(size, words) | timed_cells(one.speed, words)
    return _facts_table(cells, words)


def _facts_table(cells: Mapping[str, Mapping[str, str]], words: Words) -> Table:
    columns = list(dict.fromkeys(column for one in cells.values() for column in one))
    rows = [
        [words.model(name), *(one.get(column, words("dash")) for column in columns)]
        for name, one in cells.items()
        if one
    ]
    return Table([words("contest_model"), *columns], rows)


def wrong_table(contest: Contest, words: Words) -> Table:
    """How many rows which of the two has wrong."""
    rows = []
    for key in ("both", "student", "teacher"):
        count = sum(one.wrong == key for one in contest.disagreements)
        rows.append([words(f"contest_wrong_{key}"), f"{count:,}", percent(count / contest.rows)])
    return Table([words("contest_wrong"), words("rows"), words("contest_share")], rows)


def disagreements_table(
    rows: Sequence[Disagreement], head: Sequence[str], words: Words, named: Named, texts: Mapping[str, str] | None
) -> Table:
    """Rows with every answer given; with their text only when `texts` is given."""
    made = []
    for one in rows:
        said = [
            words("comma").join(map(named, names)) or words("none") for names in (one.truth, one.student, one.teacher)
        ]
        made.append([*said, *([texts.get(one.id, "")] if texts is not None else []), one.id])
    columns = [*head, *([words("mistake_text")] if texts is not None else []), words("mistake_id")]
    wide = frozenset({3}) if texts is not None else frozenset()
    return Table(columns, made, code=frozenset({len(columns) - 1}), prose=frozenset({0, 1, 2}) | wide, wide=wide)
