"""A browser app to explore a model: draws, chains and energies, served on this machine only.

    python -m experiments.app --workdir=runs/demo

`subject` opens a run or an export with test examples, `given` reads the user's input, `draws`
computes what is shown, `views` renders it as HTML, and `page` is the Gradio page and its server.
"""
