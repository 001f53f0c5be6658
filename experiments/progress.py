# SPDX-License-Identifier: Apache-2.0
"""What the user sees while an experiment runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Reporter:
    """Tells of phases and of finished runs. Use as a context manager, so that the bar ends with the run."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.total = 0
        self.done = 0

    def __enter__(self) -> Reporter:
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console, transient=True, refresh_per_second=2)
            self.bar.start()
            self.task = self.bar.add_task("starting", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def phase(self, text: str) -> None:
        """A step begins that is not a counted run."""
        if self.bar and self.task is not None:
            self.bar.update(self.task, description=text)
        else:
            self.console.print(text, markup=False, soft_wrap=True)

    def expect(self, runs: int) -> None:
        """So many runs will be reported with `finished`."""
        self.total = runs
        if self.bar and self.task is not None:
            self.bar.update(self.task, total=runs, completed=0)

    def finished(self, what: str, outcome: str) -> None:
        """A counted run has ended."""
        self.done += 1
        if self.bar and self.task is not None:
            self.bar.update(self.task, description=f"{what}: {outcome}", completed=self.done)
        else:
            width = len(str(self.total))
            line = f"[{self.done:{width}}/{self.total}] {what}: {outcome}"
            self.console.print(line, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A remark that stays on the screen."""
        self.console.print(text, markup=False, soft_wrap=True)
