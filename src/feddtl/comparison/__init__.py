"""Methods x settings x seeds: runs them and writes tables of the results.

grid.py                        runs the cells: new ones, interrupted ones, those that failed before
scores.py, tables.py           scores by method and their means over data sets; the tables of them
paper.py                       the paper's own numbers
files.py                       the files of a comparison's folder
"""
