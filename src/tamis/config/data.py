"""Which rows, and under which policy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tamis.config.section import Section

SplitName = Literal["train", "validation", "calibration", "test"]


class PolicyConfig(Section):
    """The taxonomy."""

    path: str = Field("default", description="A policy file, or the name of a shipped one.")
    only: tuple[str, ...] = Field((), description="Keep only these categories; empty keeps all.")


class SourceConfig(Section):
    """Where rows come from and what their columns mean."""

    path: str = Field(description="A .csv, .tsv, .jsonl (.gz too) or .parquet file, a folder, `hub:NAME`, or `demo`.")
    split: SplitName | None = Field(
        None, description="Put all rows into this split; without it rows are split by `data.split`."
    )
    text: str = Field("text", description="Column of the text.")
    label: str | None = Field(
        "label",
        description="Column of the human verdict (several: separated by `|`, `!x` for one that does not hold); null"
        " where there is none.",
    )
    unlisted: Literal["absent", "unknown"] = Field(
        "absent",
        description="Where a text may have several labels: what a row says of categories it does not list. `unknown`:"
        " nothing, neither yes nor no.",
    )
    score: str | None = Field(None, description="Column of a human risk score in [0, 1].")
    lang: str | None = Field(None, description="Column of the language; without it the language is recognised.")
    labels: dict[str, str] = Field({}, description="Maps labels found to category ids; others must be category ids.")
    name: str | None = Field(None, description="Name of the source in tables; the file's name without it.")
    subset: str | None = Field(None, description="Configuration name of a hub data set.")
    hub_split: str = Field("train", description="Split to read of a hub data set.")


class SplitConfig(Section):
    """Shares of the splits for rows that name none."""

    seed: int = Field(
        0, description="Chooses which rows go where; a row's place depends on it and on its own text alone."
    )
    validation: float = Field(0.1, ge=0, lt=1, description="Chooses checkpoints; audits the teacher.")
    calibration: float = Field(0.1, ge=0, lt=1, description="Fits temperature and thresholds.")
    test: float = Field(0.2, ge=0, lt=1, description="Measures; nothing is chosen on it.")


class DataConfig(Section):
    """Ingest and prepare."""

    sources: tuple[SourceConfig, ...] = Field(
        min_length=1, description="One or more sources, see [data.sources](#datasources)."
    )
    min_chars: int = Field(1, ge=1, description="Shorter rows are rejected.")
    max_chars: int = Field(100_000, ge=1, description="Longer rows are rejected, never cut.")
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of shingles from which two texts are one."
    )
    shingle: int = Field(4, ge=2, le=12, description="Characters a shingle.")
    split: SplitConfig = SplitConfig()
    gold: int | None = Field(None, ge=1, description="Human labels kept in training, the rest hidden; all without it.")
