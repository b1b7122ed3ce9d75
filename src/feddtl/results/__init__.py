"""Runs that are done, as values: read, grouped, averaged and put into tables. Comparisons and reports rest on it.

run.py                      one run
reading.py                  run folders, wherever below a folder they lie
settings.py, grouping.py    runs of one setting; within it runs that differ in the seed alone
labels.py, statistics.py    labels and paths as they are shown; means, deviations and paired differences over seeds
tables.py, rendering.py     tables as text cells; Markdown and LaTeX
"""
