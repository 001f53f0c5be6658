# SPDX-License-Identifier: Apache-2.0
"""Experiments in files of the user's own: `run path/to/mine.py` (docs/how-to/write-an-experiment.md)."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.errors import ExperimentError
from experiments.plan import Experiment, Plan, config_text
from vswitch.errors import VSwitchError

NAME = re.compile(r"\w[\w.-]*")
OF_THE_HARNESS = ("runs", "seed", "cores", "other_cpu")
"""Options that every experiment has: the harness asks for them."""


def is_file(name: str) -> bool:
    """Whether what is to be run is given as a file."""
    return name.endswith(".py") or os.sep in name


def load(path: Path, taken: Collection[str]) -> Experiment:
    """The EXPERIMENT that a file defines, whose plans are checked. taken: names that it may not have."""
    experiment = getattr(_imported(path), "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise ExperimentError(f"{path} defines no EXPERIMENT of the class experiments.plan.Experiment")
    if not NAME.fullmatch(experiment.name) or experiment.name in taken:
        raise ExperimentError(
            f"{path}: the experiment's name {experiment.name!r} is taken or no name of a folder "
            "(allowed: letters, digits, -, _ and .)"
        )
    missing = [name for name in OF_THE_HARNESS if name not in experiment.options]
    if missing:
        raise ExperimentError(
            f"{path}: the experiment lacks the options {', '.join(missing)} "
            "(experiments.options.TCP_RUNS has all but runs)"
        )

    def plan(options: dict[str, Any]) -> Plan:
        with errors_told(path):
            made = experiment.plan(options)
        return checked(path, made)

    return replace(experiment, plan=plan, file=str(path.absolute()))


def _imported(path: Path) -> Any:
    """The module; as of a script, what it imports may stand beside it."""
    if not path.is_file():
        raise ExperimentError(f"{path} does not exist, or is no file")
    name = f"own_experiment_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ExperimentError(f"{path} is no Python file: its name has to end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for their module
    sys.path.insert(0, str(path.absolute().parent))
    with errors_told(path):
        spec.loader.exec_module(module)
    return module


@contextmanager
def errors_told(path: Path) -> Iterator[None]:
    """An error in a line of the file, or below it, is told as one sentence; others are bugs of ours."""
    try:
        yield
    except VSwitchError:
        raise
    except SyntaxError as error:
        raise ExperimentError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == path.absolute()]
        if not lines:
            raise
        what = " ".join(str(error).split())
        raise ExperimentError(f"{path}, line {lines[-1]}: {type(error).__name__}: {what}") from error


def checked(path: Path, plan: Plan) -> Plan:
    """The plan; raises ExperimentError for one that the harness could not run, or not report on."""
    if not plan.cases:
        raise ExperimentError(f"{path}: the plan has no cases: nothing would be measured")
    back_ends = {kind.name for kind in plan.back_ends}
    configs = [case.config for case in plan.cases]
    for case in plan.cases:
        text = config_text(case.config)
        if case.back_end not in back_ends:
            raise ExperimentError(
                f"{path}: the case {text} is for the back end {case.back_end!r}, which the plan lacks "
                f"(it has {', '.join(sorted(back_ends))})"
            )
        if "switch" not in case.config:
            raise ExperimentError(f"{path}: the case {text} does not say its switch (as 'switch': 'vswitch')")
        if configs.count(case.config) > 1:
            raise ExperimentError(f"{path}: there are two cases of the configuration {text}")
    for ratio in plan.ratios:
        for config in _compared(ratio):
            if config not in configs:
                raise ExperimentError(
                    f"{path}: the ratio {ratio.label!r} is of {config_text(config)}, which no case measures"
                )
    return plan


def _compared(ratio: Any) -> tuple[dict[str, Any], ...]:
    """The configurations that a ratio or a spread compares."""
    return getattr(ratio, "among", None) or (ratio.numerator, ratio.denominator)
