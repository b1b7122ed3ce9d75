"""One self-contained page from run folders: numbers, curves, clients, costs, names that are confused, images."""

from __future__ import annotations

from feddtl.report.page import Written, write_report

__all__ = ["Written", "write_report"]
