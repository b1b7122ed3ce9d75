"""feddtl against the reference loop: a table, and JSON.

Measures: local (SFT and RL epochs), evaluation, text (server training), share (of the matrix-multiply peak),
growth, run (the whole few-shot run and its memory), demo, busy (other work on the machine), gpu. README.md says what
each line means.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import comparisons, wholes
from benchmarks.busy import busy
from benchmarks.context import Bench
from benchmarks.measure import Row, write_results
from benchmarks.workload import SHAPES, WORK, Workload

RESULTS = Path(__file__).parent / "results"
MEASURES = {
    "local": comparisons.local,
    "evaluation": comparisons.evaluation,
    "text": comparisons.text,
    "share": comparisons.share,
    "growth": wholes.growth,
    "run": wholes.run,
    "demo": wholes.demo,
    "busy": busy,
    "gpu": wholes.gpu,
}
# The demo needs the history; 'gpu' is for a GPU.
NOT_QUICK = ("demo", "gpu")


def main(words: list[str] | None = None) -> None:
    """Measure, write after each measure, and print."""
    arguments = parse(words)
    # transformers warns of its own future changes at every load.
    warnings.filterwarnings("ignore", category=FutureWarning)
    silence_transformers()
    console = Console()
    # A file or pipe has no width of its own.
    console = console if console.is_terminal else Console(width=140)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            Workload(device=arguments.device, work=str(arguments.work), shape=arguments.shape),
            Path(scratch),
            arguments.repeats,
            arguments.run_repeats,
            {"auto": None, "always": True, "never": False}[arguments.full_reference],
            arguments.quick,
        )
        for name in arguments.measures:
            console.print(f"measuring: {name} …", style="dim")
            found = MEASURES[name](bench)
            write_results(arguments.output, found, bench.settings)
            rows += found
    console.print(table(rows))
    console.print(f"written: {arguments.output}", style="dim")


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line; measures and output are filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help="default: all but gpu")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side (3)")
    parser.add_argument("--run-repeats", type=int, default=1, help="whole runs of each side (1)")
    parser.add_argument(
        "--full-reference",
        choices=("auto", "always", "never"),
        default="auto",
        help="run the reference to its end, or estimate it from a round of each stage; "
        "auto: estimate what would take more than 20 minutes",
    )
    parser.add_argument("--device", default="cpu", help="device of both sides (cpu)")
    parser.add_argument("--shape", default="vit-b-16", choices=SHAPES, help="of the model (vit-b-16)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to test the benchmark; the numbers are meaningless"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="folder of generated models and images")
    parser.add_argument("--output", type=Path, help="result file (results/cpu.json; on a GPU results/gpu.json)")
    arguments = parser.parse_args(words)
    if unknown := set(arguments.measures) - set(MEASURES):
        parser.error(f"unknown measure {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    if not arguments.measures:
        left_out = NOT_QUICK if arguments.quick else ("gpu",)
        arguments.measures = [name for name in MEASURES if name not in left_out]
    if arguments.output is None:
        name = "cpu.json" if arguments.device == "cpu" else "gpu.json"
        arguments.output = WORK / "quick.json" if arguments.quick else RESULTS / name
    return arguments


def silence_transformers() -> None:
    """Turn off progress bars, and the report of unused weights when one tower is loaded."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def table(rows: list[Row]) -> Table:
    """All lines; green if the target is met."""
    shown = Table(title="feddtl against the reference loop: medians")
    for title in ("measure", "target", "ours", "reference", "ratio", "met"):
        shown.add_column(title, justify="left" if title == "measure" else "right", no_wrap=title != "measure")
    for row in rows:
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.met]
        name = f"{row.name}\n[dim]{row.note}[/]" if row.note else row.name
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        shown.add_row(name, row.target, amount(row.ours, row.unit), amount(row.reference, row.unit), ratio, met)
    return shown


def amount(value: float | None, unit: str) -> str:
    """A value with its unit."""
    if value is None:
        return ""
    if unit == "s":
        return f"{value:.0f} s" if value >= 100 else f"{value:.3g} s"
    divisor, name = {"bytes": (1e9, "GB"), "FLOP/s": (1e12, "TFLOP/s")}[unit]
    return f"{value / divisor:.2f} {name}"


if __name__ == "__main__":
    main()
