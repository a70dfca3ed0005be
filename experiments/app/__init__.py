"""An app to look at a model with: draws, chains and energies in a browser, on this machine alone.

    python -m experiments.app --workdir=runs/demo

`subject` opens a run or an export with test examples, `given` reads what a visitor gives, `draws`
computes what is shown, `views` makes HTML of it, and `page` is the Gradio page and its server.
"""
