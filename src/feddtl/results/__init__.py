"""Finished runs as values: read, grouped, averaged and put into tables, for comparisons and reports.

run.py                      one run
reading.py                  the run folders below a folder
settings.py, grouping.py    runs of one setting; within it runs that differ in the seed alone
labels.py, statistics.py    labels and paths as shown; means, deviations and paired differences over seeds
tables.py, rendering.py     tables as text cells; Markdown and LaTeX
"""
