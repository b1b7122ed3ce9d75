"""Progress bars on a terminal, below the lines that are printed; imports nothing heavy."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from feddtl.units import duration, harmless


def error_console() -> Console:
    """Standard error; only a terminal gets bars, even if FORCE_COLOR is set."""
    return Console(stderr=True, force_terminal=sys.stderr.isatty())


class Bars(Progress):
    """Progress bars by name, each drawn at its first use; they disappear at the end. A file gets none.

    Args:
        console: Where they are drawn, below the lines that are printed on it.
        disable: Whether there are none on a terminal either.
    """

    def __init__(self, console: Console, *, disable: bool = False) -> None:
        columns = (TextColumn("{task.fields[count]:>11}"), TextColumn("{task.fields[left]}"))
        title, bar = TextColumn("{task.description:<20}", markup=False), BarColumn(bar_width=30)
        super().__init__(
            title, bar, *columns, console=console, transient=True, disable=disable or not console.is_terminal
        )
        self._named: dict[str, TaskID] = {}

    def draw(self, name: str, title: str, done: int = 0, total: int | None = None, *, estimate: bool = False) -> None:
        """Draw a bar, which pulses without a total. With an estimate, its remaining time stands behind it."""
        if self.disable:
            return
        count = "" if total is None else f"{done}/{total}"
        if name not in self._named:
            self._named[name] = self.add_task(harmless(title), total=total, completed=done, count=count, left="")
        task = self._named[name]
        self.update(task, description=harmless(title), completed=done, total=total, count=count)
        if estimate:
            # From the progress since the first drawing; there is none before the first step.
            self.say_left(name, next(found for found in self.tasks if found.id == task).time_remaining)

    def say_left(self, name: str, seconds: float | None) -> None:
        """Write the remaining time behind a bar, if it was drawn."""
        if name in self._named:
            self.update(self._named[name], left=time_left(seconds))

    def remove(self, name: str) -> None:
        """Remove a bar, if it was drawn."""
        if name in self._named:
            self.remove_task(self._named.pop(name))


def time_left(seconds: float | None) -> str:
    """'about 5 min 3 s left'; nothing if it is not known, or if none is left."""
    return f"about {duration(seconds)} left" if seconds else ""
