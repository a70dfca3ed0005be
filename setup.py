"""Which packages a wheel holds: the library, and within it the commands and configs it bundles.

`experiments` and `configs` lie at the top of the checkout and under `mmebm_jax/bundled` in a wheel,
where their names cannot meet a user's own; `mmebm_jax/console.py` finds them in both places.
"""

from setuptools import find_packages, setup

BUNDLED = ("configs", "experiments")

setup(
    packages=[
        *find_packages(include=["mmebm_jax", "mmebm_jax.*"]),
        *(
            f"mmebm_jax.bundled.{name}"
            for name in find_packages(include=[*BUNDLED, *(f"{name}.*" for name in BUNDLED)])
        ),
    ],
    package_dir={f"mmebm_jax.bundled.{name}": name for name in BUNDLED},
)
