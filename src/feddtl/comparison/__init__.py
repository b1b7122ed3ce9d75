"""Methods x settings x seeds: runs them and writes tables of the results.

grid.py, cells.py              runs the cells: new ones, interrupted ones, those that failed before
trials.py, tuning.py           chooses the learning rate of each experiment on held-back training images
scores.py, tables.py           scores by method and their means over data sets; the tables of them
rates_table.py                 the table of chosen rates
paper.py                       the paper's own numbers
files.py                       the files of a comparison's folder
"""
