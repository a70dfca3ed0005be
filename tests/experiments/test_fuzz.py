"""Damaged and hostile files give a result or a one-line error, within the stated memory.

To run more draws than usual: pytest tests/experiments/test_fuzz.py --rounds=1000
"""

import io
import json
import logging
import random
import resource
import tracemalloc
import warnings
import zipfile

import jax
import numpy as np
import pytest

import mmebm_jax
from experiments.sample import read_given
from mmebm_jax.runs import checkpoint
from mmebm_jax.storage.npz import MOST_BYTES
from tests.commands import digest, first_files, save_run, small_config

SEED = 7
HUGE = (10**15, 2**63, -(10**15), 1e308, -1, 0, 10**400)
ODD = (*HUGE, None, True, 0.5, "", "x" * 10**5, "../../x", "\ud800\n", [], {}, [[[[0]]]], {"a": {}})


def mutated(rng, content):
    """Bytes with a few flips, cuts, insertions, repetitions or changed numbers."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, length = rng.randrange(len(content) + 1), rng.choice((1, 4, 8, 64, 1000))
        kind = rng.randrange(6)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            content[at:at] = rng.randbytes(length)
        elif kind == 3:
            content[at : at + length] = bytes([rng.choice((0, 255))]) * length
        elif kind == 4:
            del content[at : at + length]
        else:
            content[at : at + 1] = str(rng.choice(HUGE)).encode()
    return bytes(content)


def mutated_json(rng, content):
    """A JSON file with some values or names replaced, removed or swapped."""
    tree = json.loads(content)
    for _ in range(rng.choice((1, 1, 3))):
        node = tree
        while isinstance(node, dict | list) and len(node):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = rng.choice(keys)
            if not isinstance(node[key], dict | list) or rng.random() < 0.2:
                kind = rng.randrange(4)
                if kind == 0:
                    del node[key]
                elif kind == 1:
                    other = rng.choice(keys)
                    node[key], node[other] = node[other], node[key]
                elif kind == 2 and isinstance(node, dict):
                    node[rng.choice(("", "a.b", "guard", "\n", "x" * 5000))] = node.pop(key)
                else:
                    node[key] = rng.choice(ODD)
                break
            node = node[key]
    if rng.random() < 0.03:
        return rng.choice((b"[" * 10**5, b"1" * 10**5, b"null", b"NaN", b"[]", b"{}"))
    return json.dumps(tree).encode()


def one_line(function, *arguments):
    """Return "result" or the name of the error, whose message must be a single line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function(*arguments)
        except (ValueError, FileNotFoundError) as error:
            line = str(error)
            assert line
            assert "\n" not in line
            line.encode()
            return type(error).__name__
    return "result"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder, its state and its sampler."""
    folder = tmp_path_factory.mktemp("run")
    state = save_run(folder, small_config())
    return folder, state, mmebm_jax.load(folder)


def saved_array(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def random_array(rng):
    """An array file whose header may make any claim about its values."""
    header = {
        "descr": rng.choice(("|u1", "<f4", ">f8", "<i4", "|O", "<U9", "|V3", "<c8", "|b1", "<f2")),
        "fortran_order": rng.choice((False, True, 3)),
        "shape": rng.choice(((2, 16, 16, 3), (10**15, 16, 16, 3), (-2,), (), (0, 16, 16, 3), "x")),
    }
    text = rng.choice((repr(header), repr(header)[:-3], "(" * 9000, "[" * 900)).encode()
    content = rng.randbytes(rng.choice((0, 1536, 6144)))
    return (
        b"\x93NUMPY"
        + rng.choice((b"\x01\x00", b"\x03\x00"))
        + len(text).to_bytes(2, "little")
        + text
        + content
    )


def hostile_archive(rng, images):
    names = ["m0.npy", "m1.npy", "sound.npy", "m0", "../m0.npy", ".npy", "m\n.npy"]
    buffer = io.BytesIO()
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            content = rng.choice((saved_array(images), random_array(rng)))
            content = mutated(rng, content) if rng.random() < 0.5 else content
            archive.writestr(rng.choice(names[: rng.choice((1, 2, 7))]), content)
    return buffer.getvalue()


def test_a_given_file_gives_a_batch_or_one_line(run, tmp_path, request):
    sampler, rng = run[2], random.Random(SEED)
    images = np.random.default_rng(SEED).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, m0=images, m1=images)
    path, outcomes = tmp_path / "given.npz", []
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A name may occur twice.
        for _ in range(request.config.getoption("rounds") or 300):
            is_raw = rng.random() < 0.5
            content = mutated(rng, buffer.getvalue()) if is_raw else hostile_archive(rng, images)
            path.write_bytes(content)
            outcomes.append(one_line(read_given, str(path), sampler))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    counts = {outcome: outcomes.count(outcome) for outcome in set(outcomes)}
    print(f"{counts}, {peak / 2**20:.1f} MiB at the peak")
    assert {"result", "ValueError"} <= set(outcomes)
    # Claimed sizes were never allocated; the files themselves are only kilobytes.
    assert peak < 32 * 2**20 < MOST_BYTES


@pytest.mark.slow
def test_a_checkpoints_manifests_give_weights_or_one_line(run, request, caplog):
    folder, state, _ = run
    rng, outcomes = random.Random(SEED), []
    caplog.set_level(logging.CRITICAL)
    before, newest = digest(folder), folder / "checkpoints" / "0"
    files = [folder / "config.json", folder / "data.json", *first_files(newest, "_*")]
    files += [*first_files(newest, "metadata"), *first_files(newest, "manifest.ocdbt")]
    files += first_files(newest, "process_0")
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)

    def resume():
        checkpoint.check_config(folder_path, config)
        checkpoint.restore(checkpoint.open_manager(folder_path), template)

    folder_path, config = checkpoint.epath.Path(folder), small_config()
    one_line(resume)
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for round_ in range(request.config.getoption("rounds") or 60):
        path = rng.choice(files)
        content = path.read_bytes()
        is_json = content[:1] == b"{" and rng.random() < 0.7
        path.write_bytes((mutated_json if is_json else mutated)(rng, content))
        try:
            outcomes.append(
                one_line(resume) if round_ % 4 == 0 else one_line(mmebm_jax.load, folder)
            )
        finally:
            path.write_bytes(content)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before) / 1024
    counts = {outcome: outcomes.count(outcome) for outcome in set(outcomes)}
    print(f"{counts}, grown by {grown:.0f} MiB")
    assert {"result", "ValueError"} <= set(outcomes)
    assert digest(folder) == before
    assert grown < 512
