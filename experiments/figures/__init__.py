"""The papers' figures and ablations on PolyDigits: `python -m experiments.figures NAME`.

`runs` trains and keeps, `figure` says what a figure is, `registry` lists them; the others are one
figure each: its runs, what is measured of each, how it is drawn, and its sentence.
"""
