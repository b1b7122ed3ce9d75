"""Methods x settings x seeds: what is run, and the tables of what came out.

grid.py                        runs the cells: new ones, interrupted ones, those that failed before
scores.py, tables.py           scores by method and their means over data sets; the tables of them
paper.py                       the paper's own numbers
files.py                       the files of a comparison's folder
"""
