"""Tables of the report: rows of ready text, escaped by the templates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tamis.judge.result import Evaluation, Mistake, Speed
from tamis.judge.verdict import percent
from tamis.judge.words import Words

SPLITS = ("train", "validation", "calibration", "test")
OUTCOMES = ("ok", "refused", "unparsable", "failed")
MEGABYTE = 1e6
LARGE = 100


@dataclass(frozen=True)
class ReportContext:
    """What a report tells besides the evaluation; everything but the name may be empty.

    Args:
        name: of the run.
        data_card: from the data room.
        audit: of the teacher, or None.
        training_log: entries of `step`, `epoch`, loss terms, `macro_f1` and `worst_recall`.
        settings: the recipe, nested.
        try_it: commands that use the model.
        texts: by example id, for the mistakes; shown only with `report.show_texts`.
    """

    name: str
    data_card: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] | None = None
    training_log: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    try_it: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A head and rows of text; `bold` holds (row, column) of cells to stress.

    Columns: `code` are set as code, `prose` to the left and wrapped, `wide` get room for a whole text.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    note: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()
    code: frozenset[int] = frozenset()
    prose: frozenset[int] = frozenset()
    wide: frozenset[int] = frozenset()
    folded: bool = False


Named = Callable[[str], str]
"""A category's id to its name."""


def speed_table(evaluation: Evaluation, words: Words) -> Table:
    """Latency, throughput, memory and the callers' facts, by model."""
    models = evaluation.models
    lines: dict[str, list[str]] = {}
    for place, model in enumerate(models.values()):
        cells = timed_cells(model.speed, words) | fact_cells(model.facts, words)
        for name, cell in cells.items():
            lines.setdefault(name, [words("dash")] * len(models))[place] = cell
    rows = [[name, *cells] for name, cells in lines.items()]
    return Table([words("figure"), *(words.model(name) for name in models)], rows)


def timed_cells(speed: Speed | None, words: Words) -> dict[str, str]:
    """Latency, throughput and memory by name; empty when nothing was timed."""
    if speed is None:
        return {}
    keys = {
        "p50": speed.p50_ms,
        "p95": speed.p95_ms,
        "p99": speed.p99_ms,
        "rate": speed.texts_per_second,
        "batch": speed.batch,
        "memory": speed.peak_mb,
    }
    return {words(f"speed_{key}"): quantity(value) for key, value in keys.items()}


def fact_cells(facts: Mapping[str, float | str], words: Words) -> dict[str, str]:
    """What the caller says of a model, by name."""
    return {words.known("fact", key): _fact(key, value) for key, value in facts.items()}


def _fact(key: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    return quantity(value / MEGABYTE if key == "file_size" else value)


def quantity(value: float) -> str:
    """A number as people read it: 12,345 or 12.3 or 0.123."""
    if not math.isfinite(value):
        return "–"
    if value == int(value) or abs(value) >= LARGE:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def audit_tables(audit: Mapping[str, Any], words: Words, named: Named) -> Iterator[Table]:
    """The audit's figures, then its classes."""
    yield Table([words("figure"), words("value")], [[name, cell] for name, cell in _audit_lines(audit, words)])
    per_class = audit.get("per_class", {})
    if per_class:
        figures = ("precision", "recall", "f1")
        rows = [
            [named(name), quantity(row["rows"]), *(_share(row[f]) for f in figures), quantity(row.get("refused", 0))]
            for name, row in per_class.items()
        ]
        columns = (words(f"metric_{figure}") for figure in figures)
        yield Table([words("class"), words("rows"), *columns, words("audit_refused")], rows)
    if audit.get("members"):
        yield _members_table(audit["members"], words)
        rows = [[*pair["members"], _share(pair["kappa"]), quantity(pair["rows"])] for pair in audit["kappa"]]
        head = (words("audit_member"), words("audit_member"), words("audit_kappa"), words("rows"))
        yield Table(head, rows, title=words("audit_pairs"), note=words("audit_pairs_note"), prose=frozenset({1}))


def _members_table(members: Sequence[Mapping[str, Any]], words: Words) -> Table:
    """The teachers of an ensemble, each on the rows it was asked about."""
    rows = [
        [
            one["name"],
            quantity(one["rows"]),
            _share(one.get("macro_f1")),
            _refusals(one),
            _share(one["reliability"]),
            quantity(one["tokens"]),
            quantity(one["cost"]),
        ]
        for one in members
    ]
    keys = (
        "audit_member",
        "rows",
        "metric_macro_f1",
        "audit_refused",
        "audit_reliability",
        "audit_tokens",
        "audit_cost",
    )
    return Table([words(key) for key in keys], rows, title=words("audit_members"), note=words("audit_members_note"))


def _refusals(member: Mapping[str, Any]) -> str:
    return percent(member["outcomes"]["refused"] / member["rows"]) if member["rows"] else "–"


def _audit_lines(audit: Mapping[str, Any], words: Words) -> Iterator[tuple[str, str]]:
    if "rows" in audit:
        yield words("audit_rows"), quantity(audit["rows"])
    for key in ("macro_f1", "linear_macro_f1", "accuracy", "ece", "known_mass"):
        if key in audit:
            yield words(f"audit_{key}"), _share(audit[key])
    if "combine" in audit:
        yield words("audit_combine"), words(f"combine_{audit['combine']}")
        yield words("audit_disagreement"), _share(audit["disagreement"])
    if "agreement" in audit:
        yield words("audit_same"), _percent(audit["agreement"].get("same"))
    for name in OUTCOMES:
        if audit.get("outcomes", {}).get(name):
            yield words(f"audit_outcome_{name}"), quantity(audit["outcomes"][name])
    methods = [f"{words.known('method', name)} {count:,}" for name, count in audit.get("methods", {}).items()]
    if methods:
        yield words("audit_methods"), words("comma").join(methods)


def _share(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value)


def card_tables(card: Mapping[str, Any], words: Words, named: Named) -> Iterator[Table]:
    """Sizes of the splits, what is in them, what was left out."""
    splits = card.get("splits", {})
    present = [name for name in SPLITS if name in splits]
    if present:
        sizes = [[words(f"card_{n}"), quantity(splits[n]["rows"]), quantity(splits[n]["gold"])] for n in present]
        yield Table([words("card_split"), words("rows"), words("card_gold")], sizes)
    for key in ("class", "source", "language", "length"):
        names = dict.fromkeys(name for one in present for name in splits[one].get(key, {}))
        show = named if key == "class" else str
        rows = [
            [words("card_unlabelled") if name == "-" else show(name)]
            + [quantity(splits[one].get(key, {}).get(name, 0)) for one in present]
            for name in names
        ]
        if rows:
            yield Table([words(f"card_{key}"), *(words(f"card_{one}") for one in present)], rows, folded=key != "class")
    for key, title in (("counts", "card_removed"), ("rejected", "card_rejected")):
        if card.get(key):
            rows = [[words.known("card", name), quantity(count)] for name, count in card[key].items()]
            yield Table([words(title), words("rows")], rows)


def mistakes_table(mistakes: Sequence[Mistake], words: Words, named: Named, texts: Mapping[str, str] | None) -> Table:
    """Misjudged rows; with their text only when `texts` is given."""
    shown = ("truth", "said", "confidence", *(("text",) if texts is not None else ()), "id")
    rows = []
    for one in mistakes:
        truth, said = (words("comma").join(map(named, names)) or words("none") for names in (one.truth, one.said))
        cells = {"truth": truth, "said": said, "confidence": percent(one.confidence), "id": one.id}
        rows.append([cells.get(key, "") if key != "text" else (texts or {}).get(one.id, "") for key in shown])
    wide = frozenset({shown.index("text")}) if texts is not None else frozenset()
    head = [words(f"mistake_{key}") for key in shown]
    return Table(head, rows, code=frozenset({len(shown) - 1}), prose=frozenset({0, 1}) | wide, wide=wide)


def settings_table(settings: Mapping[str, Any], words: Words) -> Table:
    """Nested settings as dotted names, as the recipe and `--set` write them."""
    rows = [[name, value] for name, value in _flat(settings)]
    return Table([words("setting"), words("value")], rows, code=frozenset({0, 1}), prose=frozenset({1}))


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            shown = f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
            yield f"{before}{key}", shown
