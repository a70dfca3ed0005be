"""Paths of folders and files, on this machine or in a bucket, from their addresses."""

import importlib.util
import os
import re

from etils import epath

from mmebm_jax.storage.validation import plain, shown

HUB = "hf://"
# Kinds of buckets that can be read and written, with the module that each needs.
BUCKETS = {"gs://": "gcsfs", "s3://": "s3fs", "az://": "adlfs"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HUB_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)"
    r"(?:/(?:tree|blob|resolve)/([^/?#]+))?"
)


def place(address: epath.PathLike) -> epath.Path:
    """A path that can be read and written, on this machine or in a bucket.

    Raises:
      TypeError: the address is neither a string nor a path.
      ValueError: it is on the Hugging Face Hub or of an unknown kind, or the module that reads such
        buckets is not installed.
    """
    if not isinstance(address, str | os.PathLike):
        raise TypeError(f"{shown(address)} is no path: give a text, as 'runs/demo'.")
    text = os.fspath(address)
    found = _SCHEME.match(text)
    if found is None:
        return epath.Path(address)
    scheme, known = found[0], ", ".join(("a local path", *BUCKETS))
    if page := _HUB_PAGE.match(text):
        name, revision = page.groups()
        at = f"@{revision}" if revision else ""
        raise ValueError(f"{plain(text)} is a web page: give {plain(HUB + name + at)} to load it.")
    if scheme == HUB:
        raise ValueError(f"{plain(text)} is read only, to load models from: give {known}.")
    if scheme not in BUCKETS:
        raise ValueError(f"{plain(text)} cannot be opened: give {known}, or {HUB} to load a model.")
    module = BUCKETS[scheme]
    # TensorFlow, if installed, can read buckets too.
    if not any(importlib.util.find_spec(name) for name in (module, "tensorflow")):
        raise ValueError(f"{plain(text)} needs {module}: pip install {module}.")
    return epath.Path(address)
