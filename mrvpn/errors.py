"""What is wrong with a description: values that are collected, not exceptions that stop at the first.

Knows: the form of a problem. Must not know: what is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, order=True)
class Problem:
    """One finding: where (path in the description, file and line, 0 where there is none) and what would be right."""

    file: str
    line: int
    path: str
    message: str
    code: str
    severity: Severity = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        mark = "" if self.severity == "error" else "warning: "
        return f"{place}{mark}{self.path + ': ' if self.path else ''}{self.message} [{self.code}]"


class Refused(Exception):
    """A description with errors was asked for something that needs a good one; `problems` holds all of them."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
