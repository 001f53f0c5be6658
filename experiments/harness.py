# SPDX-License-Identifier: Apache-2.0
"""Runs an experiment: starts the back ends, measures them in turn and in rounds, and fills the run folder.

All back ends stay up for the whole run, since idle ones cost next to nothing; one is measured at a time. Each
round measures every case once, in a seeded random order, so that a drift of the machine hits all alike.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from experiments import cpu, environment
from experiments.errors import ExperimentError
from experiments.metrics import Workload
from experiments.options import format_cores
from experiments.peers.base import BackEnd, Servers, Variant
from experiments.plan import Case, Experiment, Plan, config_text
from experiments.progress import Reporter
from experiments.summary import Sample, summarise
from experiments.system import require_programs, require_root
from experiments.validity import reasons_against
from topologies.interrupts import uninterrupted

RETRIES = 2  # of one disturbed run
ALL_RETRIES = 6  # of an experiment, or one for so many runs, so that its length stays bounded
RUNS_PER_RETRY = 8
ALL_RETRIES_QUICK = 2
CALM_WITHIN_S = 120.0  # in all, that an experiment waits for others to end
CALM_WITHIN_S_QUICK = 4.0
LOOK_S = 1.0  # at what others do
HEAT_S = 1  # of calibration
FINALISTS, FINALS = 3, 2
MARKER = "config.json"  # a folder that has it is a run folder of ours


class Harness:
    """One run of an experiment into the folder `out`.

    `options` are the values of the experiment's options.
    """

    def __init__(
        self, experiment: Experiment, options: dict[str, Any], out: Path, reporter: Reporter, quick: bool
    ) -> None:
        self.experiment = experiment
        self.options = options
        self.out = out.absolute()  # what runs in another mount namespace has another working directory
        self.reporter = reporter
        self.quick = quick
        self.plan: Plan = experiment.plan(options)
        self.back_ends: dict[str, BackEnd] = {}
        self.variants: dict[str, Variant] = {}  # the best, by config_text of the case
        self.patience_s = CALM_WITHIN_S_QUICK if quick else CALM_WITHIN_S
        planned = options["runs"] * len(self.plan.cases)
        self.retries = ALL_RETRIES_QUICK if quick else max(ALL_RETRIES, planned // RUNS_PER_RETRY)

    def run(self) -> dict[str, Any]:
        """Measure everything and return the summary, which is also in the run folder."""
        require_root()
        require_programs(
            [*self.plan.programs, *(name for kind in self.plan.back_ends for name in kind.programs)]
        )
        prepare_folder(self.out)
        stamp = environment.stamp(self.options["seed"])
        if self.plan.against:
            stamp["against"] = self.plan.against
        plain = printable(self.options)
        write_json(self.out / MARKER, {"experiment": self.experiment.name, "quick": self.quick, **plain})
        write_json(self.out / "environment.json", stamp)
        with ExitStack() as stack:
            self._start(stack)
            self._calibrate()
            rounds = self._measure()
        chosen = {text: str(variant) for text, variant in self.variants.items()}
        summary = summarise(self.experiment.name, stamp, plain, self.plan, rounds, chosen)
        if self.experiment.file:
            summary["file"] = self.experiment.file
        write_json(self.out / "summary.json", summary)
        return summary

    def _start(self, stack: ExitStack) -> None:
        first, second = self.options["cores"]
        servers = Servers(first, second, self.out / "logs")
        servers.run_dir.mkdir()
        for kind in self.plan.back_ends:
            self.reporter.phase(f"starting {kind.name}")
            back_end = kind(servers)
            stack.callback(self._stop, back_end)
            back_end.start()
            self.back_ends[kind.name] = back_end

    @staticmethod
    def _stop(back_end: BackEnd) -> None:
        with uninterrupted():
            back_end.stop()

    def _calibrate(self) -> None:
        """Find the fastest variant of each case whose back end has several: peers are to be at their best."""
        for name, back_end in self.back_ends.items():
            cases = [case for case in self.plan.cases if case.back_end == name]
            variants = back_end.quick_variants() if self.quick else back_end.variants()
            for served in self._served_together(cases):
                best = self._fastest(back_end, variants, served[-1]) if len(variants) > 1 else variants[0]
                self.variants |= {config_text(case.config): best for case in served}

    def _served_together(self, cases: list[Case]) -> list[list[Case]]:
        """Cases that one choice is made for, by the last of them (the one with the most flows): each for
        itself, in a quick run all with the same kind of load."""
        if not self.quick:
            return [[case] for case in cases]
        kinds: dict[type, list[Case]] = {}
        for case in cases:
            kinds.setdefault(type(case.load), []).append(case)
        return list(kinds.values())

    def _fastest(self, back_end: BackEnd, variants: list[Variant], case: Case) -> Variant:
        """The best of short heats; in a full run its best few then meet in runs of full length."""
        self.reporter.phase(f"looking for the fastest way to run {config_text(case.config)}")
        heat = case.load.shortened(HEAT_S)
        rates = {variant: [self._rate(back_end, variant, case, heat)] for variant in variants}
        heats = {str(variant): rate for variant, (rate,) in rates.items()}
        if not self.quick:
            finalists = sorted(rates, key=lambda variant: rates[variant], reverse=True)[:FINALISTS]
            rates = {
                variant: [self._rate(back_end, variant, case, case.load) for _ in range(FINALS)]
                for variant in finalists
            }
        finals = {} if self.quick else {str(variant): rate for variant, rate in rates.items()}
        write_json(self.out / "raw" / f"{slug(case)}-calibration.json", {"heats": heats, "finals": finals})
        return max(rates, key=lambda variant: median(rates[variant]))

    def _rate(self, back_end: BackEnd, variant: Variant, case: Case, load: Workload) -> float:
        back_end.use(variant)
        back_end.prepare(case.config)
        return load.run(back_end).primary

    def _measure(self) -> list[list[Sample]]:
        order = random.Random(self.options["seed"])
        rounds = []
        self.reporter.expect(self.options["runs"] * len(self.plan.cases))
        for number in range(self.options["runs"]):
            rounds.append([self._sample(case, number) for case in shuffled(self.plan.cases, order)])
        return rounds

    def _sample(self, case: Case, number: int) -> Sample:
        """Measure a case; when the run was disturbed, again, at most `RETRIES` times."""
        for attempt in range(RETRIES + 1):
            sample = self._attempt(case, number, attempt)
            if sample.valid or not self.retries:
                break
            self.retries -= attempt < RETRIES
            self._wait_for_calm()
        flaw = "" if sample.valid else f", invalid: {'; '.join(sample.reasons)}"
        self.reporter.finished(config_text(case.config), str(sample.measured) + flaw)
        return sample

    def _wait_for_calm(self) -> None:
        """Return when others leave the machine to us, or have used up our patience: they work for a while,
        most likely, and would disturb the repetition too."""
        while self.patience_s > 0:
            before, began = cpu.snapshot(), time.monotonic()
            time.sleep(LOOK_S)
            elapsed = time.monotonic() - began
            self.patience_s -= elapsed
            use = cpu.use_between(before, cpu.snapshot(), elapsed, os.getpid())
            if use.disturbance <= self.options["other_cpu"]:
                return

    def _attempt(self, case: Case, number: int, attempt: int) -> Sample:
        back_end = self.back_ends[case.back_end]
        back_end.use(self.variants[config_text(case.config)])
        back_end.prepare(case.config)
        counters_before, cpu_before, began = back_end.counters(), cpu.snapshot(), time.monotonic()
        measured = case.load.run(back_end)
        cpu_after, elapsed = cpu.snapshot(), time.monotonic() - began
        counters_after = back_end.counters()
        use = cpu.use_between(cpu_before, cpu_after, elapsed, os.getpid())
        growth = {name: value - counters_before.get(name, 0) for name, value in counters_after.items()}
        reasons = reasons_against(use, growth, self.options["other_cpu"])
        sample = Sample(case, number, attempt, measured, use, growth, reasons)
        record = {"config": case.config, "cpu": asdict(use), "reasons": reasons, "load": measured.raw}
        record |= {"counters_before": counters_before, "counters_after": counters_after}
        write_json(self.out / "raw" / f"{slug(case)}-{number + 1}-{attempt + 1}.json", record)
        return sample


def shuffled(cases: Sequence[Case], order: random.Random) -> list[Case]:
    """The cases of a round in random order, those side by side that are to be."""
    blocks: dict[object, list[Case]] = {}
    for number, case in enumerate(cases):
        blocks.setdefault(case.side_by_side or number, []).append(case)
    mixed = list(blocks.values())
    order.shuffle(mixed)
    for block in mixed:
        order.shuffle(block)
    return [case for block in mixed for case in block]


def prepare_folder(out: Path) -> None:
    """Make the run folder; one of an earlier run is replaced, any other that is not empty is refused."""
    if out.exists() and not out.is_dir():
        raise ExperimentError(f"{out} is not a directory: give another with --out")
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).exists():
            raise ExperimentError(
                f"{out} is not empty and holds no earlier run: give another directory with --out"
            )
        shutil.rmtree(out)
    try:
        (out / "raw").mkdir(parents=True)
    except OSError as error:
        raise ExperimentError(f"cannot make the run folder {out}: {error.strerror}") from None


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def printable(options: dict[str, Any]) -> dict[str, Any]:
    """Option values as plain JSON, in the form in which they are given on the command line."""
    plain = dict(options)
    plain["cores"] = ",".join(format_cores(cores) for cores in options["cores"])
    return plain


def slug(case: Case) -> str:
    return config_text(case.config).replace(" ", "-").replace("=", "-")
