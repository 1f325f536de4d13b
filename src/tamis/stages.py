"""What each stage of the pipeline does: here the rooms meet, which do not know each other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tamis.calibration import Calibration
from tamis.config import RunConfig, TeacherConfig, TrainConfig
from tamis.data import load_splits, prepare_splits
from tamis.deciding import Thresholds
from tamis.errors import BundleError, ConfigError, DataError, GateError
from tamis.judge.baselines import fit_baseline
from tamis.judge.evaluate import evaluate
from tamis.judge.lexicon import read_lexicon
from tamis.judge.report import ReportContext, write_report
from tamis.judge.result import Evaluation, Speed
from tamis.judge.speed import measure_speed
from tamis.judge.thresholds import fit, require_labels
from tamis.learn.batches import Knowledge, States
from tamis.learn.schedule import compares_states
from tamis.learn.score import scorer_of
from tamis.learn.student import Student, build_student, load_student, merged
from tamis.learn.train import train
from tamis.network import parameters_of
from tamis.plan import baselines, to_label
from tamis.policy import Policy
from tamis.records import NO_ANSWER, Scorer, Scores, Splits, TeacherSignal, content_id
from tamis.ship.backends import Name, Parts, Quantize, TorchBackend
from tamis.ship.bundle import BundleSpec, load_bundle, write_bundle
from tamis.ship.choose import candidates, export_bundle
from tamis.ship.parity import ALL
from tamis.store import Store
from tamis.teach.audit import audit
from tamis.teach.features import FeatureFile, features_folder, kept_states, live_states
from tamis.teach.label import label
from tamis.teach.members import Ensemble, Member, audit_together, label_together
from tamis.teach.teachers import Teacher, local_teacher, make_teacher

log = logging.getLogger(__name__)
SIGNALS = "signals.jsonl"
WEIGHTS = {".safetensors", ".onnx", ".data", ".xml", ".bin", ".gguf"}
SHOWN = 128
"""Training texts that show a form of 8 bits how large activations become."""


@dataclass(frozen=True)
class Labelled:
    """The teacher's signals by example id, and what the audit found; both empty without a teacher."""

    signals: Mapping[str, TeacherSignal]
    audit: dict[str, Any] | None


@dataclass(frozen=True)
class Measured:
    """The evaluation on the test split, and what was fitted on the calibration split."""

    evaluation: Evaluation
    calibration: Calibration
    thresholds: Thresholds
    history: list[dict[str, Any]]


class Stages:
    """The stages of one run; each method returns, or is, a function of the stage's folder."""

    def __init__(self, config: RunConfig, policy: Policy) -> None:
        self.config = config
        self.policy = policy
        # Read before any work is done, so that a mistake in it costs none.
        self.lexicon = read_lexicon(config.evaluate.lexicon, policy) if config.evaluate.lexicon else None

    def ingest(self, out: Path) -> Splits:
        """Read, clean, de-duplicate, split, check for leaks."""
        return prepare_splits(self.config, self.policy, out)

    def load_splits(self, out: Path) -> Splits:
        """What `ingest` made."""
        return load_splits(out)

    def label(self, splits: Splits) -> Callable[[Path], Labelled]:
        """Ask the teacher about training rows and about the gold it is judged by."""
        require_labels(splits.calibration, self.policy, self.config.thresholds)

        def work(out: Path) -> Labelled:
            labelled = self._ask(splits) if self.config.teacher.kind != "none" else Labelled({}, None)
            write_signals(labelled.signals, out / SIGNALS)
            (out / "audit.json").write_text(json.dumps(labelled.audit, ensure_ascii=False, indent=1), encoding="utf-8")
            for warning in (labelled.audit or {}).get("warnings", ()):
                log.warning("%s", warning)
            return labelled

        return work

    def _ask(self, splits: Splits) -> Labelled:
        config = self.config.teacher
        with self._store() as store:
            if config.kind == "ensemble":
                return self._ask_together(splits, store)
            teacher = self._teacher(config, splits, store)
            page = audit(
                teacher, splits.validation, splits.train, store, config, self.policy, self.config.report.language
            )
            rows = [*to_label(splits.train.examples, self.config), *splits.validation.gold, *splits.test.gold]
            return Labelled(label(rows, teacher, store, config, self.policy), page)

    def _store(self) -> Store:
        return Store.open(self.config.store or Path(self.config.out) / "store.sqlite")

    def _ask_together(self, splits: Splits, store: Store) -> Labelled:
        config = self.config.teacher
        members = tuple(Member(self._teacher(member, splits, store), member) for member in config.members)
        ensemble = Ensemble(members, config, self.policy, store)
        page = audit_together(ensemble, splits.validation, splits.train, self.config.report.language)
        rows = to_label(splits.train.examples, self.config)
        return Labelled(label_together(rows, splits.validation, splits.test.gold, ensemble), page)

    def _teacher(self, config: TeacherConfig, splits: Splits, store: Store) -> Teacher:
        if config.kind != "bundle":
            return make_teacher(config, self.policy, splits.train.gold, store)
        bundle = load_bundle(config.model)
        if bundle.policy.label_space != self.policy.label_space:
            theirs, own = ", ".join(bundle.policy.ids), ", ".join(self.policy.ids)
            raise ConfigError(f"teacher {config.model} judges {theirs}, this run {own}: use the same policy")
        name = f"bundle {bundle.versions['model']}"
        return local_teacher(bundle.scores_and_states, self.policy, name, bundle.trained_on, config, store)

    def load_labelled(self, out: Path) -> Labelled:
        """What `label` made."""
        return Labelled(read_signals(out / SIGNALS), json.loads((out / "audit.json").read_text(encoding="utf-8")))

    def distil(self, splits: Splits, labelled: Labelled) -> Callable[[Path], Student]:
        """Train the student; what is kept is the best checkpoint on the validation split."""

        def work(out: Path) -> Student:
            config = self.config
            student = build_student(config.student, self.policy, config.train.seed)
            wanted = {example.id for example in splits.train.examples}
            signals = {name: signal for name, signal in labelled.signals.items() if name in wanted}
            knowledge = Knowledge(signals, self._states(splits, signals))
            return self._trained(student, splits, knowledge, config.train, out)

        return work

    def _trained(
        self, student: Student, splits: Splits, knowledge: Knowledge, config: TrainConfig, out: Path
    ) -> Student:
        """The student with the best weights of its training, saved."""
        state = train(student, splits.train, splits.validation, knowledge, self.config.objective, config, out)
        student.facts["training_seconds"] = round(state.seconds)
        (out / "history.json").write_text(json.dumps(state.history, indent=1))
        student.save(out)
        return student

    def _states(self, splits: Splits, signals: Mapping[str, TeacherSignal]) -> States | None:
        """The teacher's hidden states, kept or computed anew; None where the objective compares none."""
        if not compares_states(self.config.objective, self.config.train):
            return None
        config = self.config.teacher
        chosen = [config.features.index(theirs) for theirs, _ in self.config.objective.layers]
        with self._store() as store:
            if config.live:
                return live_states(self._teacher(config, splits, store), chosen)
            names = {str(signal.feature).partition("#")[0] for signal in signals.values() if signal.feature}
            if len(names) != 1:
                raise DataError("the teacher left no hidden states behind: remove the `label` folder and label again")
            return kept_states(FeatureFile.open(features_folder(store) / names.pop()), len(config.features), chosen)

    def load_student(self, out: Path) -> Student:
        """What `distil` made."""
        return load_student(out)

    def evaluate(self, splits: Splits, labelled: Labelled, student: Student) -> Callable[[Path], Measured]:
        """Measure student, teacher and baselines on the test split."""

        def work(out: Path) -> Measured:
            served = merged(student)
            score = scorer_of(served)
            calibration, thresholds = fit(score, splits.calibration, self.policy, self.config.thresholds)
            scorers = self._scorers(calibration.over(score, self.policy), splits, labelled)
            result = evaluate(scorers, splits.test, self.policy, self.config.evaluate)
            speed = measure_speed(score, [row.text for row in splits.test.gold], self.config.evaluate.latency_rows)
            result = result.with_facts("student", speed, **student_facts(student, served))
            if labelled.signals:
                facts = teacher_facts(labelled)
                own = self._teacher_here([row.text for row in splits.test.gold], str(facts["answered_by"]))
                result = result.with_facts("teacher", own[0], **facts, **own[1])
            (out / "evaluation.json").write_text(json.dumps(result.to_json(), ensure_ascii=False, indent=1))
            (out / "calibration.json").write_text(json.dumps(asdict(calibration)))
            (out / "thresholds.json").write_text(thresholds.model_dump_json(indent=1))
            return self._measured(result, calibration, thresholds)

        return work

    def _teacher_here(self, texts: Sequence[str], answered_by: str) -> tuple[Speed | None, dict[str, float]]:
        """How fast and how large the bundle is that answered; nothing of any other teacher, or of a remote one."""
        config = self.config.teacher
        if config.kind != "bundle":
            return None, {}
        try:
            bundle = load_bundle(config.model)
        except BundleError as error:
            log.warning("the teacher's speed is not measured: %s", error)
            return None, {}
        if bundle.spec.backend == "remote" or bundle.versions["model"] not in answered_by:
            return None, {}
        weights = (path.stat().st_size for path in Path(config.model).rglob("*") if path.suffix in WEIGHTS)
        size = {"file_size": float(sum(weights))}
        if isinstance(bundle.backend, TorchBackend):
            size = {"parameters": float(parameters_of(bundle.backend.network)[0])} | size
        return measure_speed(bundle.score, texts, self.config.evaluate.latency_rows), size

    def _scorers(self, student: Scorer, splits: Splits, labelled: Labelled) -> dict[str, Scorer]:
        scorers = {"student": student}
        if labelled.signals:
            scorers["teacher"] = signals_scorer(labelled.signals, self.policy)
        for name in baselines(self.config):
            scorers[name] = fit_baseline(name, splits.train, labelled.signals, self.policy, self.lexicon)
        return scorers

    def _measured(self, evaluation: Evaluation, calibration: Calibration, thresholds: Thresholds) -> Measured:
        history = json.loads((Path(self.config.out) / "distill" / "history.json").read_text())
        return Measured(evaluation, calibration, thresholds, history)

    def load_measured(self, out: Path) -> Measured:
        """What `evaluate` made."""
        evaluation = Evaluation.from_json(json.loads((out / "evaluation.json").read_text()))
        calibration = Calibration.from_json(json.loads((out / "calibration.json").read_text()))
        thresholds = Thresholds.model_validate_json((out / "thresholds.json").read_text())
        return self._measured(evaluation, calibration, thresholds)

    def report(self, splits: Splits, labelled: Labelled, measured: Measured) -> Callable[[Path], None]:
        """Write report.html, report.md and metrics.json."""

        def work(out: Path) -> None:
            card = json.loads((Path(self.config.out) / "ingest" / "data_card.json").read_text(encoding="utf-8"))
            context = ReportContext(
                name=self.config.name,
                data_card=card,
                audit=labelled.audit,
                training_log=measured.history,
                settings=self.config.model_dump(mode="json"),
                try_it=f'tamis moderate --bundle {self.config.out}/bundle "..."',
                texts={row.id: row.text for row in splits.test.gold},
            )
            write_report(measured.evaluation, context, out, self.config.report)
            log.info("report: %s", out / "report.html")

        return work

    def require(self, measured: Measured) -> None:
        """Refuse to go on with a student that does not reach the gate.

        Raises:
            GateError: it does not.
        """
        gate, result = self.config.gate, measured.evaluation
        page = Path(self.config.out) / "report" / "report.html"
        teacher, student = result.comparisons.get("teacher"), result.models["student"].metrics
        reached = {
            # Of scores alone there is none, which reaches nothing.
            "macro_f1": (gate.macro_f1, student["macro_f1"].value if "macro_f1" in student else float("nan")),
            "retention": (gate.retention, teacher.retention.value if teacher else float("nan")),
        }
        for name, (wanted, value) in reached.items():
            if wanted is not None and not value >= wanted:
                raise GateError(
                    f"the student's {name} is {value:.3f}, gate.{name} wants {wanted}: not exported, see {page}"
                )

    def export(
        self, splits: Splits, student: Student, measured: Measured, before: Iterable[str] = ()
    ) -> Callable[[Path], None]:
        """Write the bundle, load it again and see that it decides as the student does.

        Args:
            splits: the training rows it learnt, and those that check it.
            student: what is exported.
            measured: its calibration and thresholds.
            before: content ids that the weights it began with had learnt.
        """
        shown = student.encoder.encode([example.text for example in splits.train.examples[:SHOWN]]).ids
        own = student.network, student.config.model, self.config.export.remote, shown
        parts = Parts(lambda whole: merged(student, whole=whole).network, *own)
        rows = {example.id for example in splits.train.gold}.union(before)

        def write(backend: Name, quantize: Quantize, folder: Path) -> Path:
            fitted = measured.calibration, measured.thresholds
            spec = BundleSpec.of(
                student.network.pooling,
                student.encoder,
                self.policy,
                *fitted,
                facts=student.facts,
                backend=backend,
                quantize=quantize,
            )
            return write_bundle(parts, student.encoder, self.policy, spec, rows, folder)

        def work(out: Path) -> None:
            trained = measured.calibration.over(scorer_of(student), self.policy)
            examples = splits.calibration.examples or splits.validation.examples
            tried = candidates(self.config.export.backend, self.config.export.quantize, student.network)
            parity = export_bundle(write, tried, trained, examples, out)
            log.info("bundle %s agrees with the trained student: %s", out, parity[ALL])

        return work

    def nothing(self, out: Path) -> None:
        """A stage whose result nobody reads."""


def write_signals(signals: Mapping[str, TeacherSignal], path: Path) -> None:
    """One signal a line."""
    lines = [json.dumps(asdict(signal), ensure_ascii=False) for signal in signals.values()]
    path.write_text("\n".join(lines), encoding="utf-8")


def read_signals(path: Path) -> dict[str, TeacherSignal]:
    """What `write_signals` wrote, by example id."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    signals = [TeacherSignal(**(record | {"evidence": tuple(record["evidence"])})) for record in records]
    return {signal.example_id: signal for signal in signals}


def signals_scorer(signals: Mapping[str, TeacherSignal], policy: Policy) -> Scorer:
    """The teacher as a scorer of texts it has been asked about; what it did not answer is no answer."""

    def score(texts: Sequence[str]) -> list[Scores]:
        found = (signals.get(content_id(text)) for text in texts)
        return [policy.scores(s.probabilities) if s and s.outcome == "ok" else NO_ANSWER for s in found]

    return score


def student_facts(student: Student, served: Student) -> dict[str, float]:
    """How large it is as it is served, how much of it was trained, on what and for how long."""
    size = sum(w.numel() * w.element_size() for w in served.network.parameters())
    held = {"parameters": float(parameters_of(served.network)[0]), "file_size": float(size)}
    return {name: float(value) for name, value in student.facts.items()} | held


def teacher_facts(labelled: Labelled) -> dict[str, float | str]:
    """What the teacher's answers cost."""
    signals = list(labelled.signals.values())
    return {
        "answered_by": signals[0].teacher,
        "signals": float(len(signals)),
        "teacher_tokens": float(sum(signal.prompt_tokens + signal.completion_tokens for signal in signals)),
        "teacher_cost": sum(signal.cost for signal in signals),
    }
