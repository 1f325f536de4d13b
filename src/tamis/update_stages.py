"""What each stage of an update does: as in stages.py, with the running model as teacher of a student that goes on."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tamis.calibration import categories_of
from tamis.config import EvaluateConfig, RunConfig, TeacherConfig, UpdateConfig
from tamis.data import load_splits, prepare_splits
from tamis.data.before import NAMES
from tamis.data.sources import named
from tamis.errors import BundleError, ConfigError, DataError
from tamis.judge.thresholds import require_labels
from tamis.judge.update.cases import passed_by, read_tests
from tamis.judge.update.compare import Asked, compare
from tamis.judge.update.diagnosis import diagnose, missed_by
from tamis.judge.update.report import write_succession
from tamis.judge.update.result import Succession, require
from tamis.learn.batches import Knowledge
from tamis.learn.grow import Merged, grown, on_merged
from tamis.learn.student import Student, load_student
from tamis.learn.train import usual_rate
from tamis.plan import distil_inputs, ingest_inputs, label_inputs, policy_of
from tamis.policy import Policy
from tamis.records import Example, Scorer, Splits, TeacherSignal, TrainSplit
from tamis.ship.bundle import check_manifest, load_bundle
from tamis.stages import SIGNALS, Labelled, Measured, Stages, read_signals, write_signals
from tamis.store import Store
from tamis.teach.label import label
from tamis.teach.teachers import local_teacher

log = logging.getLogger(__name__)
TEACHER = "teacher.jsonl"
FOUND = "succession.json"
SLOWER = 0.5
MOST_COPIES = 4


@dataclass(frozen=True)
class Memory:
    """What the running model says of the rows that are learnt, and the teacher of what that model missed."""

    signals: Mapping[str, TeacherSignal]
    teacher: Mapping[str, TeacherSignal]


class UpdateStages(Stages):
    """The stages of one update.

    Raises:
        PolicyError: a policy that has done more than grow.
        BundleError: a bundle that must not be served, or is no bundle of the run that is named.
        ConfigError: the update's folder holds the running bundle, or a file that cannot be used.
    """

    def __init__(self, update: UpdateConfig) -> None:
        run = as_run(update)
        super().__init__(run, policy_of(run))
        self.update = update
        self.bundle = Path(update.bundle).resolve()
        if Path(update.out).resolve() in self.bundle.parents:
            raise ConfigError(
                f"the running bundle {self.bundle} lies in {update.out}: give the next update its own out"
            )
        self.old = load_bundle(self.bundle)
        self.added = self.policy.grown_from(self.old.policy)
        self.functional = read_tests(update.functional, self.policy)
        names = [str(source.name) for source in named(run.data.sources)]
        self.fresh = set(names[: len(update.data.sources)])
        self.frozen = (*names[len(names) - len(update.regression) :], NAMES["test"])

    @cached_property
    def before(self) -> Splits | None:
        """The splits of the run that made the bundle."""
        if self.update.run is None:
            return None
        version, own = check_manifest(Path(self.update.run) / "bundle"), self.old.versions["model"]
        if version != own:
            raise BundleError(f"run {self.update.run} made bundle {version} and the running one is {own}: name its run")
        return load_splits(Path(self.update.run) / "ingest")

    @property
    def ingest_inputs(self) -> Any:
        """What decides the splits."""
        return [ingest_inputs(self.config, self.policy), self.update.run, self.old.versions["model"]]

    def ingest(self, out: Path) -> Splits:
        """Read what is new, and put it beside the rows of before."""
        return prepare_splits(self.config, self.policy, out, self.before)

    def learnt(self, splits: Splits) -> list[Example]:
        """The new training rows, and so many of the others for each of them as `replay.ratio` says.

        Raises:
            DataError: none of the training rows is new.
        """
        new = [row for row in splits.train.examples if row.source in self.fresh]
        if not new:
            raise DataError("none of the rows of data.sources is left for training: add some, or lower data.split")
        replayed = sample((row for row in splits.train.examples if row.source not in self.fresh), self._wanted(new))
        if not replayed:
            log.warning("nothing is replayed: name `run` or `replay.sources`, or old classes will suffer")
        return [*new, *replayed]

    def _wanted(self, new: Sequence[Example]) -> int:
        return math.ceil(self.update.replay.ratio * len(new))

    def reviewed(self, examples: Iterable[Example]) -> tuple[Example, ...]:
        """Those that people have labelled since."""
        return tuple(row for row in examples if row.source in self.fresh and row.is_labelled)

    def _all_reviewed(self, splits: Splits) -> tuple[Example, ...]:
        return self.reviewed(row for part in vars(splits).values() for row in part.examples)

    @property
    def memory_inputs(self) -> Any:
        """What decides the answers."""
        return [self.update.replay.ratio, *label_inputs(self.config)]

    def remember(self, splits: Splits) -> Callable[[Path], Memory]:
        """Ask the running model about the rows that are learnt, and the teacher about what that model missed."""
        require_labels(splits.calibration, self.policy, self.update.thresholds)

        def work(out: Path) -> Memory:
            with self._store() as store:
                memory = Memory(self._told_by_old(splits, store), self._told_by_teacher(splits, store))
            write_signals(memory.signals, out / SIGNALS)
            write_signals(memory.teacher, out / TEACHER)
            return memory

        return work

    def _told_by_old(self, splits: Splits, store: Store) -> Mapping[str, TeacherSignal]:
        """What the running model says of the rows that are learnt, in the categories it knows.

        It speaks as it was trained to, before its calibration: a student with the same weights has nothing to unlearn.
        """
        config = TeacherConfig(kind="bundle", model=str(self.bundle), prior_correction=False)
        name = f"bundle {self.old.versions['model']} uncalibrated"
        # Its answers about rows it has learnt are the memory that is to be kept.
        old = local_teacher(self.old.uncalibrated.scores_and_states, self.old.policy, name, frozenset(), config)
        return label(self.learnt(splits), old, store, config, self.old.policy)

    def _told_by_teacher(self, splits: Splits, store: Store) -> Mapping[str, TeacherSignal]:
        """What the teacher says of the reviewed texts that the running model has wrong; nothing without a teacher."""
        if self.update.teacher.kind == "none":
            return {}
        reviewed = self._all_reviewed(splits)
        missed = missed_by(said_by(self.old.score, reviewed, self.policy), reviewed, self.policy)
        # Shown the rows it is asked about, it would only repeat them.
        known = tuple(row for row in splits.train.examples if row.source not in self.fresh)
        teacher = self._teacher(self.update.teacher, replace(splits, train=TrainSplit(known)), store)
        return label(missed, teacher, store, self.update.teacher, self.policy)

    def load_memory(self, out: Path) -> Memory:
        """What `remember` made."""
        return Memory(read_signals(out / SIGNALS), read_signals(out / TEACHER))

    @property
    def continue_inputs(self) -> Any:
        """What decides the student."""
        return [distil_inputs(self.config), self.update.new_adapters, self.update.lora.model_dump()]

    def go_on(self, splits: Splits, memory: Memory) -> Callable[[Path], Student]:
        """Train the student on; what is kept is the best checkpoint on the validation split."""

        def work(out: Path) -> Student:
            rows = self.learnt(splits)
            student = grown(self._start(), self.policy, rows)
            signals = {row.id: memory.signals[row.id] for row in rows if self._agrees(row, memory.signals[row.id])}
            log.info("%d rows are learnt, %d of them from the running model too", len(rows), len(signals))
            learnt = replace(splits, train=TrainSplit(tuple(balanced(rows, self.added, self.policy))))
            rate = self.update.train.learning_rate or SLOWER * usual_rate(student)
            config = self.update.train.model_copy(update={"learning_rate": rate})
            return self._trained(student, learnt, Knowledge(signals, policy=self.old.policy), config, out)

        return work

    def _start(self) -> Student:
        """The student of the run where it has adapters, else new adapters over the bundle's merged weights."""
        if self.update.run is not None and not self.update.new_adapters:
            student = load_student(Path(self.update.run) / "distill")
            if student.config.mode == "lora":
                return student
        if self.old.spec.backend != "torch":
            raise BundleError(
                f"bundle {self.bundle} is served by {self.old.spec.backend} and holds no weights that can be trained:"
                " name the `run` that made it, or export it again with export.backend=torch"
            )
        base, head = self.bundle / "model", self.bundle / "head.safetensors"
        weights = Merged(base, head, self.old.encoder, self.old.policy, self.old.spec.pooling)
        return on_merged(weights, self.update.lora, self.update.train.seed)

    def _agrees(self, row: Example, signal: TeacherSignal) -> bool:
        """Whether the running model says nothing that a person has corrected; of a new category it cannot know."""
        known = {name: holds for name, holds in self.policy.verdicts(row).items() if name in self.old.policy.ids}
        if not any(known.values()) and self.policy.kind != "multi_label":
            return True
        said = self.old.policy.named(signal.probabilities)
        return all((name in said) == holds for name, holds in known.items())

    @property
    def measure_inputs(self) -> Any:
        """What decides calibration and thresholds."""
        return self.update.thresholds.model_dump()

    def measure(self, splits: Splits, student: Student) -> Callable[[Path], Measured]:
        """Calibrate it, choose thresholds and measure it on the test split, without rivals."""
        running, chosen = self.old.thresholds.method, self.update.thresholds.method
        if running != chosen:
            log.warning("the running bundle acts by thresholds of %s and the candidate by those of %s", running, chosen)
        return self.evaluate(splits, Labelled({}, None), student)

    @property
    def export_inputs(self) -> Any:
        """What decides the bundle."""
        return self.update.export.model_dump()

    def ship(self, splits: Splits, student: Student, measured: Measured) -> Callable[[Path], None]:
        """Write the candidate; it never labels as a teacher what it, or the running model, has learnt."""
        learnt = replace(splits, train=TrainSplit(tuple(self.learnt(splits))))
        return self.export(learnt, student, measured, self.old.trained_on)

    @property
    def compare_inputs(self) -> Any:
        """What decides the comparison."""
        cases = [[case.test, case.example.id, case.example.label] for case in self.functional.cases]
        return [self.update.promotion.model_dump(), cases]

    def compare(self, splits: Splits, memory: Memory) -> Callable[[Path], Succession]:
        """Hold the candidate against the running model, both as they are served, and say what that one missed."""

        def work(out: Path) -> Succession:
            new = load_bundle(out.parent / "bundle")
            config, policy, pair = self.update.promotion, self.policy, (self.old.score, new.score)
            reviewed, kept = self._all_reviewed(splits), self.reviewed(splits.test.examples)
            teacher = {
                name: policy.named(one.probabilities) for name, one in memory.teacher.items() if one.outcome == "ok"
            }
            said = said_by(self.old.score, reviewed, policy), said_by(new.score, kept, policy)
            found = Succession(
                policy=f"{policy.name} {policy.version}",
                old=self.old.versions["model"],
                new=new.versions["model"],
                added=self.added,
                names={one.id: {str(lang): text for lang, text in one.short.items()} for one in policy.categories},
                **config.model_dump(),
                suites=tuple(compare(asked, *pair, policy, self.added, config) for asked in self._asked(splits)),
                tests=passed_by(self.functional, *pair, policy),
                missed=diagnose(reviewed, said[0], teacher, said[1], policy, self.added),
            )
            (out / FOUND).write_text(json.dumps(found.to_json(), ensure_ascii=False, indent=1), encoding="utf-8")
            return found

        return work

    def _asked(self, splits: Splits) -> list[Asked]:
        """The sets that have rows: reviewed ones, frozen ones by name, functional tests."""
        frozen: dict[str, list[Example]] = {name: [] for name in self.frozen}
        for row in splits.test.examples:
            if row.source in frozen and row.is_labelled:
                frozen[row.source].append(row)
        sets = [Asked.of("reviewed", "reviewed", self.reviewed(splits.test.examples))]
        sets += [
            Asked.of(name, "before" if name == NAMES["test"] else "frozen", tuple(rows))
            for name, rows in frozen.items()
        ]
        found = [asked for asked in (*sets, self.functional.asked) if asked.examples]
        if not found:
            raise DataError("there is nothing to compare on: raise data.split.test, or name a set in `regression`")
        return found

    def load_found(self, out: Path) -> Succession:
        """What `compare` made."""
        return Succession.from_json(json.loads((out / FOUND).read_text(encoding="utf-8")))

    @property
    def report_inputs(self) -> Any:
        """What decides how it is told."""
        return self.update.report.model_dump()

    def tell(self, found: Succession) -> Callable[[Path], None]:
        """Write report.html, report.md and metrics.json."""

        def work(out: Path) -> None:
            settings = self.update.model_dump(mode="json")
            page = write_succession(found, self.update.name, settings, out, self.update.report)
            log.info("report: %s", page)

        return work


def as_run(update: UpdateConfig) -> RunConfig:
    """The update as a run: replayed rows are for training, frozen sets for testing alone."""
    replayed = [source.model_copy(update={"split": "train"}) for source in update.replay.sources]
    frozen = [source.model_copy(update={"split": "test"}) for source in update.regression]
    data = update.data.model_copy(update={"sources": (*update.data.sources, *replayed, *frozen)})
    shared = ("name", "out", "store", "policy", "objective", "train", "thresholds", "report", "export")
    teacher = update.teacher.model_dump()
    settings = {name: getattr(update, name) for name in shared}
    return RunConfig(data=data, teacher=teacher, evaluate=EvaluateConfig(baselines=()), **settings)


def sample(rows: Iterable[Example], count: int) -> list[Example]:
    """`count` rows, the classes in turn, each class in the order of its content hashes; unlabelled rows are one."""
    classes: dict[Any, list[Example]] = defaultdict(list)
    for row in sorted(rows, key=lambda example: example.id):
        classes[row.label or row.labels].append(row)
    turns = zip_longest(*classes.values())
    return [row for turn in turns for row in turn if row is not None][:count]


def balanced(rows: Sequence[Example], added: Collection[str], policy: Policy) -> list[Example]:
    """The rows, those of a new category so often that it has as many as an old class on average, 4 times at most."""
    holding = [set(categories_of(row, policy)) for row in rows]
    counts = Counter(name for names in holding for name in names)
    old = [count for name, count in counts.items() if name not in added]
    found = list(rows)
    for name in added:
        copies = min(MOST_COPIES, round(sum(old) / max(1, len(old)) / max(1, counts[name])))
        found += [row for row, names in zip(rows, holding, strict=True) if name in names] * max(0, copies - 1)
    return found


def said_by(scorer: Scorer, rows: Sequence[Example], policy: Policy) -> dict[str, tuple[str, ...]]:
    """The categories a model names, by example id."""
    told = scorer([row.text for row in rows])
    return {row.id: policy.named(one.probabilities) for row, one in zip(rows, told, strict=True)}


def require_allowed(candidate: Path) -> None:
    """Refuse a candidate that the update which made it has refused; other bundles are nobody's candidates.

    Raises:
        PromotionError: it was refused.
    """
    verdict = candidate.resolve().parent / "compare" / FOUND
    if verdict.is_file():
        found = Succession.from_json(json.loads(verdict.read_text(encoding="utf-8")))
        require(found, candidate)
