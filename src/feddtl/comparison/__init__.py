"""Methods x settings x seeds: from finished runs to tables.

outcomes.py, settings.py       what was run, and what runs have in common apart from the method
statistics.py, results.py      means, spreads and paired differences over seeds
paper.py                       the paper's own numbers
tables.py, rendering.py        text cells; Markdown and LaTeX
files.py                       the files of a comparison's folder
grid.py                        runs the cells: new ones, interrupted ones, those that failed before
"""
