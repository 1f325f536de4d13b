from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.config import SourceConfig
from tamis.data import Rejected, Row, read
from tamis.data.readers import READERS, foreign_encoding
from tamis.data.sources import DEMO, named
from tamis.errors import DataError
from tamis.policy import Policy, load_policy

Write = Callable[..., Path]
ROWS = [{"text": "你好", "label": "normal"}, {"text": "滚开", "label": "abuse"}, {"text": "hi, you", "label": None}]


def rows_of(path: Path | str, policy: Policy, **settings: Any) -> list[Row | Rejected]:
    return list(read(SourceConfig(path=str(path), **settings), policy))


def good(found: list[Row | Rejected]) -> list[tuple[str, str | None]]:
    return [(row.text, row.label) for row in found if isinstance(row, Row)]


def bad(found: list[Row | Rejected]) -> list[Rejected]:
    return [row for row in found if isinstance(row, Rejected)]


def table(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", READERS)
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path, write: Write, policy: Policy) -> None:
    if suffix == ".parquet":
        path = table(tmp_path, ROWS)
    elif suffix.startswith(".jsonl"):
        path = write(f"t{suffix}", ROWS)
    else:
        mark = "," if "csv" in suffix else "\t"
        cells = [["text", "label"], ["你好", "normal"], ["滚开", "abuse"], ['"hi, you"', ""]]
        path = write(f"t{suffix}", "\ufeff" + "".join(mark.join(row) + "\r\n" for row in cells))
    assert good(rows_of(path, policy)) == [("你好", "normal"), ("滚开", "abuse"), ("hi, you", None)]


def test_a_row_says_where_it_stands_and_whose_it_is(write: Write, policy: Policy) -> None:
    path = write("chat.jsonl", [{"text": "你好", "label": "normal", "l": "zh-CN"}])
    assert rows_of(path, policy, lang="l") == [Row("你好", "chat", "chat.jsonl:1", "zh", "normal")]
    assert rows_of(path, policy, name="mine")[0].source == "mine"  # type: ignore[union-attr]


def test_a_folder_is_all_its_files_in_order(write: Write, policy: Policy, tmp_path: Path) -> None:
    write("d/b.jsonl", [{"text": "second", "label": "abuse"}])
    write("d/a.csv", "text,label\nfirst,normal\n")
    write("d/notes.txt", "not data")
    found = rows_of(tmp_path / "d", policy)
    assert good(found) == [("first", "normal"), ("second", "abuse")]
    assert {row.source for row in found if isinstance(row, Row)} == {"d"}


def test_progress_ends_at_the_size_of_all_files(write: Write, policy: Policy, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(f"d/{name}.jsonl", [{"text": f"{name} {number}", "label": "normal"} for number in range(2500)])
    told: list[tuple[int, int]] = []
    source = SourceConfig(path=str(tmp_path / "d"))
    assert len(list(read(source, policy, lambda done, total: told.append((done, total))))) == 5000
    assert told == sorted(told)
    assert len(told) >= 4
    assert {total for _, total in told} == {sum(path.stat().st_size for path in (tmp_path / "d").iterdir())}


def test_a_hub_data_set_gives_class_names(write: Write, policy: Policy, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write("set/train.jsonl", ROWS[:2])
    assert good(rows_of(f"hub:{tmp_path / 'set'}", policy)) == [("你好", "normal"), ("滚开", "abuse")]
    with pytest.raises(DataError, match=r"cannot read hub:.*`hub_split`"):
        rows_of(f"hub:{tmp_path / 'set'}", policy, hub_split="nowhere")


def test_the_demo_has_rows_of_the_policys_categories_only() -> None:
    policy = load_policy("default")
    labels = {row.label for row in rows_of(DEMO, policy) if isinstance(row, Row)}
    assert labels
    assert labels <= set(policy.ids)
    few = policy.only(["normal", "fraud"])
    assert {row.label for row in rows_of(DEMO, few) if isinstance(row, Row)} <= {"normal", "fraud"}


def test_the_demo_without_a_category_of_the_policy_is_an_error() -> None:
    policy = load_policy("default")
    others = policy.model_copy(
        update={"categories": tuple(c.model_copy(update={"id": f"x_{c.id}"}) for c in policy.categories)}
    )
    with pytest.raises(DataError, match="of your own"):
        rows_of(DEMO, others)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ('{"text": "a", "label": "normal"', "bad JSON"),
        ("[1, 2]", "bad JSON"),
        ('{"text": "", "label": "normal"}', "no text"),
        ('{"text": " \\t", "label": "normal"}', "no text"),
        ('{"label": "normal"}', "no text"),
        ('{"text": 5, "label": "normal"}', "the text is no string"),
        ('{"text": "a", "label": "nonsense"}', "unknown label"),
        ('{"text": "a", "label": ["normal", "abuse"]}', "several labels where the policy allows one"),
        ('{"text": "a", "risk": 1.5}', "score out of [0, 1]"),
        ('{"text": "a", "risk": "high"}', "score is no number"),
        ('{"text": "a", "risk": true}', "score is no number"),
        ('{"text": "a", "risk": NaN}', "score out of [0, 1]"),
        (b'{"text": "caf\xe9", "label": "normal"}', "bytes that are not UTF-8"),
        ("[" * 100_000, "bad JSON"),
    ],
)
def test_a_bad_row_is_rejected_and_the_others_stay(row: str | bytes, kind: str, write: Write, policy: Policy) -> None:
    sound = '{"text": "你好", "label": "normal", "risk": null}\n'.encode()
    raw = row if isinstance(row, bytes) else row.encode()
    found = rows_of(write("t.jsonl", sound + raw + b"\n\n" + sound), policy, score="risk")
    assert [(r.where, r.kind) for r in bad(found)] == [("t.jsonl:2", kind)]
    assert len(good(found)) == 2


def test_labels_are_mapped_and_numbers_are_names(write: Write, tmp_path: Path, policy: Policy) -> None:
    rows = [{"text": f"t{value}", "label": value} for value in (0, 1, 1.0, "1", " 辱骂 ")]
    labels = {"0": "normal", "1": "abuse", "辱骂": "abuse"}
    found = good(rows_of(write("t.jsonl", rows), policy, labels=labels))
    assert [label for _, label in found] == ["normal", "abuse", "abuse", "abuse", "abuse"]
    floats = [{"text": "a", "label": 1.0}, {"text": "b", "label": float("nan")}]
    assert good(rows_of(table(tmp_path, floats), policy, labels=labels)) == [("a", "abuse"), ("b", None)]


@pytest.mark.parametrize("cell", ["fraud|abuse", ["fraud", "abuse"], "fraud | abuse|", "fraud|abuse|fraud"])
def test_several_labels_come_in_the_policys_order(cell: Any, write: Write, multi_policy: Policy) -> None:
    found = rows_of(write("t.jsonl", [{"text": "a", "label": cell}]), multi_policy)
    assert [row.labels for row in found if isinstance(row, Row)] == [("abuse", "fraud")]


def test_the_benign_label_stands_alone(write: Write, multi_policy: Policy) -> None:
    rows = [{"text": "a", "label": "normal|fraud"}, {"text": "b", "label": "normal"}]
    assert [row.kind for row in bad(rows_of(write("t.jsonl", rows), multi_policy))] == ["the benign label with another"]


def test_scores_are_read_where_there_is_no_label(write: Write, policy: Policy) -> None:
    found = rows_of(write("t.csv", "text,risk\na,0.25\nb,\n"), policy, score="risk")
    assert [row.score for row in found if isinstance(row, Row)] == [0.25, None]


def test_csv_keeps_what_quotes_hold_and_names_broken_lines(write: Write, policy: Policy) -> None:
    text = (
        'text,label\n"two\nlines, one ""cell""",normal\nfine,normal\n"never closed,normal\n'
        "still read,abuse\ntoo,many,cells\nlast,fraud\n"
    )
    found = rows_of(write("t.csv", text), policy)
    expected = [('two\nlines, one "cell"', "normal"), ("fine", "normal"), ("still read", "abuse"), ("last", "fraud")]
    assert good(found) == expected
    assert [(row.where, row.kind) for row in bad(found)] == [
        ("t.csv:5", "bad CSV"),
        ("t.csv:7", "wrong number of cells"),
    ]


def test_tsv_takes_a_lone_quote_as_a_letter(write: Write, policy: Policy) -> None:
    found = rows_of(write("t.tsv", 'text\tlabel\n"oh\tnormal\nhm\tabuse\n'), policy)
    assert good(found) == [('"oh', "normal"), ("hm", "abuse")]


def test_mixed_encodings_lose_their_bad_lines_only(write: Write, policy: Policy) -> None:
    lines = ["text,label", "你好,normal", "再见,abuse", "滚开,abuse"]
    raw = b"\n".join([*(line.encode() for line in lines), "他们谢谢我们,normal".encode("gb18030")])
    found = rows_of(write("t.csv", raw), policy)
    assert len(good(found)) == 3
    assert [(row.where, row.kind) for row in bad(found)] == [("t.csv:5", "bytes that are not UTF-8")]


def test_parquet_with_bad_bytes_loses_that_row_only(tmp_path: Path, policy: Policy) -> None:
    broken = pa.array([b"fine", b"\xff\xfe", b"too"]).cast(pa.binary())
    texts = pa.StringArray.from_buffers(3, broken.buffers()[1], broken.buffers()[2])
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": texts, "label": ["normal"] * 3}), path)
    found = rows_of(path, policy)
    assert good(found) == [("fine", "normal"), ("too", "normal")]
    assert [row.where for row in bad(found)] == ["t.parquet: row 2"]


CHINESE = "text,label\n这是一个我们在的人,normal\n他们来了大家都不知道,abuse\n"


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        (CHINESE, "gb18030", "GB18030"),
        ("text,label\n這是一個我們在的人,normal\n他們來了,abuse\n", "big5", "Big5"),
        (CHINESE, "utf-16", "UTF-16"),
        ("text,label\nun café crème,normal\ndéjà vu,abuse\n", "cp1252", "WINDOWS-1252"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_another_encoding_is_named_with_the_command(
    text: str, encoding: str, said: str, name: str, write: Write, policy: Policy
) -> None:
    path = write(name, text.encode(encoding))
    with pytest.raises(DataError, match=f"looks like {said}: convert it with .*iconv -f {said} -t UTF-8"):
        rows_of(path, policy)


def test_plain_and_utf8_text_is_no_foreign_encoding() -> None:
    assert foreign_encoding(b"plain") is None
    assert foreign_encoding("你好\n".encode() * 100_000) is None
    assert foreign_encoding("你好".encode() * 100_000) is None


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.jsonl.gz", "t.parquet", "t.tsv.gz"])
def test_an_empty_file_is_an_error(name: str, write: Write, policy: Policy) -> None:
    with pytest.raises(DataError, match="is empty: give a file"):
        rows_of(write(name, b""), policy)


def test_a_file_with_a_header_alone_is_an_error(write: Write, tmp_path: Path, policy: Policy) -> None:
    with pytest.raises(DataError, match="has no rows"):
        rows_of(write("t.csv", "text,label\n"), policy)
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="has no rows"):
        rows_of(tmp_path / "t.parquet", policy)


def test_a_missing_file_names_the_nearest(write: Write, tmp_path: Path, policy: Policy) -> None:
    write("train.jsonl", ROWS)
    with pytest.raises(DataError, match=r"no file .*trian\.jsonl, did you mean train\.jsonl\?"):
        rows_of(tmp_path / "trian.jsonl", policy)
    with pytest.raises(DataError, match="nor a folder"):
        rows_of(tmp_path / "no" / "where.csv", policy)


def test_what_cannot_be_read_is_an_error(write: Write, tmp_path: Path, policy: Policy) -> None:
    with pytest.raises(DataError, match=r"wanted one of \.csv"):
        rows_of(write("t.xlsx", "x"), policy)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds no file"):
        rows_of(tmp_path / "nothing", policy)
    with pytest.raises(DataError, match="as Parquet"):
        rows_of(write("t.parquet", "no parquet"), policy)
    with pytest.raises(DataError, match="holds a JSON array"):
        rows_of(write("a.jsonl", json.dumps(ROWS)), policy)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_a_truncated_gzip_is_an_error(keep: float, tmp_path: Path, policy: Policy) -> None:
    raw = "".join(json.dumps({"text": f"row {n * n * 7919}", "label": "normal"}) + "\n" for n in range(20_000))
    packed = gzip.compress(raw.encode())
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(packed[: int(len(packed) * keep)])
    with pytest.raises(DataError, match="was cut off: copy or download it again"):
        rows_of(path, policy)


def test_a_file_that_is_no_gzip_is_an_error(tmp_path: Path, policy: Policy) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="is not a sound gzip file"):
        rows_of(path, policy)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_missing_column_lists_those_found_and_the_nearest(
    name: str, write: Write, tmp_path: Path, policy: Policy
) -> None:
    rows = [{"texts": "a", "kind": "normal"}]
    path = table(tmp_path, rows) if name.endswith("parquet") else write(name, rows)
    if name == "t.csv":
        path = write(name, "texts,kind\na,normal\n")
    with pytest.raises(DataError, match=r"no column 'text': it has .*texts.*, the nearest is 'texts'; set `text`"):
        rows_of(path, policy)
    with pytest.raises(DataError, match=r"no column 'label': it has .*null where there are no labels"):
        rows_of(path, policy, text="texts")
    assert good(rows_of(path, policy, text="texts", label=None)) == [("a", None)]


def test_mostly_unknown_labels_stop_the_source(write: Write, policy: Policy) -> None:
    rows = [{"text": f"t{n}", "label": "toxic" if n < 6 else "abuse"} for n in range(10)]
    with pytest.raises(DataError, match=r"6 of 10 labelled rows .*\(toxic\).*normal, abuse, fraud: map them .*'toxic'"):
        rows_of(write("t.jsonl", rows), policy)
    assert len(good(rows_of(write("t.jsonl", rows), policy, labels={"toxic": "abuse"}))) == 10


def test_half_unknown_labels_are_rejected_row_by_row(write: Write, policy: Policy) -> None:
    rows = [{"text": f"t{n}", "label": "toxic" if n < 5 else "abuse"} for n in range(10)]
    assert len(bad(rows_of(write("t.jsonl", rows), policy))) == 5


def test_a_source_without_one_good_row_is_an_error(write: Write, policy: Policy) -> None:
    with pytest.raises(DataError, match=r"none of the 2 rows .* 2 for this: bad JSON"):
        rows_of(write("t.jsonl", "{\n{\n"), policy)


def test_names_of_sources_differ(write: Write) -> None:
    same = [SourceConfig(path="a/x.jsonl", split="train"), SourceConfig(path="b/x.jsonl", split="test")]
    assert [source.name for source in named(same)] == ["a/x.jsonl", "b/x.jsonl"]
    assert named(named(same)) == named(same)
    assert named([SourceConfig(path="a/x.tsv.gz")])[0].name == "x"
    assert named([SourceConfig(path="hub:org/set")])[0].name == "org/set"
    clash = [source.model_copy(update={"name": "x"}) for source in same]
    with pytest.raises(DataError, match="give each its own `name`"):
        named(clash)


@pytest.mark.parametrize(
    ("cell", "unlisted", "labels", "unknown"),
    [
        ("abuse", "absent", ("abuse",), ()),
        ("abuse", "unknown", ("abuse",), ("fraud",)),
        ("abuse|!fraud", "unknown", ("abuse",), ()),
        ("!fraud", "unknown", (), ("normal", "abuse")),
        ("!fraud", "absent", ("normal",), ()),
        ("!fraud|!abuse", "unknown", ("normal",), ()),
        ("normal", "unknown", ("normal",), ()),
        (["!fraud", "abuse"], "unknown", ("abuse",), ()),
        ("!Betrug|abuse", "unknown", ("abuse",), ()),
        ("", "unknown", None, ()),
    ],
)
def test_what_a_row_does_not_list_is_absent_or_unknown(
    cell: object,
    unlisted: str,
    labels: tuple[str, ...] | None,
    unknown: tuple[str, ...],
    write: Write,
    multi_policy: Policy,
) -> None:
    path = write("t.jsonl", [{"text": "a", "label": cell}])
    (row,) = rows_of(path, multi_policy, unlisted=unlisted, labels={"Betrug": "fraud"})
    assert isinstance(row, Row)
    assert (row.labels, row.unknown) == (labels, unknown)


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("abuse|!abuse", "a label that holds and does not"),
        ("!normal", "the benign label denied"),
        ("!x", "unknown label"),
    ],
)
def test_a_denial_that_cannot_be_is_rejected(cell: str, kind: str, write: Write, multi_policy: Policy) -> None:
    sound = [{"text": "b", "label": "abuse"}] * 2
    found = rows_of(write("t.jsonl", [{"text": "a", "label": cell}, *sound]), multi_policy)
    assert [row.kind for row in bad(found)] == [kind]


def test_an_exclamation_mark_is_a_letter_where_there_is_one_label(write: Write, policy: Policy) -> None:
    found = rows_of(write("t.jsonl", [{"text": "a", "label": "!x"}]), policy, labels={"!x": "abuse"})
    assert good(found) == [("a", "abuse")]
