"""Methods x settings x seeds: runs them and writes tables of the results.

grid.py, cells.py              runs the cells: new ones, interrupted ones, those that failed before
tuning.py, search.py           which settings of each experiment are chosen, and which of their values are tried
effect.py                      which settings have an effect on which methods
trials.py, choices.py          tries them on held-back training images; what was chosen
scores.py, tables.py           scores by method and their means over data sets; the tables of them
chosen_table.py                the tables of what was chosen
paper.py                       the paper's own numbers
files.py                       the files of a comparison's folder
"""
