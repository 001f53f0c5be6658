# SPDX-License-Identifier: Apache-2.0
"""Print the closing lines of several pytest runs and their sum in pytest's own form. Exit 1 unless all
passed."""

import re
import sys
from collections import Counter
from pathlib import Path

CLOSING = re.compile(r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in ([\d.]+)s")
WORDS = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "error")


def closing_line(log: Path) -> str:
    """The last line of a pytest run that tells its result; empty when the run died before it."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if CLOSING.match(line)]
    return lines[-1] if lines else ""


def main(logs: list[str]) -> int:
    total: Counter[str] = Counter()
    seconds = 0.0
    print()
    for log in map(Path, logs):
        match = CLOSING.match(closing_line(log))
        if match is None:
            print(f"{log.name:>12}: ended without a result")
            total["error"] += 1
            continue
        print(f"{log.name:>12}: {match[1]} in {match[2]}s")
        seconds += float(match[2])
        for part in match[1].split(", "):
            number, word = part.split()
            total["error" if word == "errors" else word] += int(number)
    total.pop("deselected", None)
    text = ", ".join(f"{total[word]} {word}" for word in WORDS if total[word])
    print(f"==== {text} in {seconds:.2f}s ====")
    return 1 if total["failed"] or total["error"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
