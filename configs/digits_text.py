"""PolyDigits and the English digit word: image and text through the same core.

Two image modalities of PolyDigits and "word", 8 characters with the word at a random offset. The
joint energy sees text as a relaxed one-hot: probabilities that Langevin dynamics may move.
Hardware: 2 CPU cores, about a minute for the 200 steps of the default.
Command: python -m experiments.main --config=configs/digits_text.py --workdir=runs/digits_text
"""

from ml_collections import ConfigDict

from configs import polydigits


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant; see configs/polydigits.py for them."""
    config = polydigits.get_config(variant)
    config.data.update(num_modalities=2)
    config.data.word = True
    # A word has 8 characters and an image 768 values: without a weight the word would hardly count.
    config.likelihood.text.weight = 10.0
    if not variant.startswith("smoke"):
        config.update(num_steps=200, warmup_steps=100, log_every=20)
        config.update(picture_every=100, checkpoint_every=100)
        config.prior.update(fit_step=100, start_step=150)
        config.prior.update(num_components=20, num_fit_examples=4000)
        config.prior.fit_steps = min(config.prior.fit_steps, 200)
        config.energy.start_step = 150
        config.schedule.settle_step = min(config.schedule.settle_step, 150)
    return config
