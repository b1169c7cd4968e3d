"""Analyses of what other commands wrote, as in the figures of arXiv 2603.25926: numbers, tables, and what is drawn.

comparison.py  folders of results, read and scored
groups.py      systems of a folder under the names that they are compared by
curves.py      scores over the ratio that was reached, and paired differences: extraction, policies, sweep
variance.py    what a selector gains over fixed ratios, over the variance of its choices
genres.py      what a selector chooses for which texts
head.py        how well the head behind it predicts; predictions.py has it read texts, the one model run here
rounding.py    what linear and log rounding make of its predictions
statistics.py  lines, correlations and their intervals
report.py      tables, and the files of an analysis

`latentpress.plots.analyses` draws from the JSON file alone.
"""
