"""The options of every data set, and what each may hold."""

from mmebm_jax.storage.validation import Rules, choice, real, switch, text, whole

POLYMNIST_VARIANTS = ("from_mnist", "official_png", "official_pt")
_SEED = whole(0, 2**31 - 1).optional

OPTIONS: dict[str, Rules] = {
    "polydigits": {
        "seed": _SEED,
        "num_modalities": whole(1, 5).optional,
        "num_train": whole(1, 10**6).optional,
        "num_test": whole(1, 10**6).optional,
        "word": switch().optional,
    },
    "ring": {
        "seed": _SEED,
        "num_train": whole(1, 10**7).optional,
        "num_test": whole(1, 10**7).optional,
        "radius": real(0, 1, "()").optional,
        "sigma": real(0, 1, "()").optional,
    },
    "polymnist": {
        "data_dir": text(1),
        "variant": choice(*POLYMNIST_VARIANTS).optional,
        "source_dir": text().optional,
        "seed": _SEED,
        "download_url": text().optional,
        "sha256": text(0, 64).optional,
        "in_memory": switch().optional,
        "check_source": switch().optional,
    },
}
"""Data set → its options' rules; the function of the same name has their meaning."""
