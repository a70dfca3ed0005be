"""The papers' figures and ablations on PolyDigits: `python -m experiments.figures NAME`.

`runs` trains and stores the runs, `figure` defines what a figure is, and `registry` lists all
figures. Every other module is one figure: its runs, what is measured on each, its plot, and its
sentence.
"""
