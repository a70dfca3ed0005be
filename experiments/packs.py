"""Pack a run folder into files of bounded size, to carry it from one machine to the next.

A pack is `STORE/STEP/000.part`, `001.part`, …: one tar file cut into pieces, with an `index.json`
that is written last and holds their sizes and checksums. It contains what resuming needs, including
the newest checkpoint, but no pictures or event files.
"""

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from mmebm_jax.storage import validation
from mmebm_jax.storage.validation import Record

INDEX = "index.json"
MOST_BYTES = 15_000_000  # per file
KEPT = ("*.json", "*.jsonl", "classifiers/**/*")
_Count = Annotated[int, pydantic.Field(ge=0, le=2**40)]


class Part(Record):
    """One piece of a pack."""

    bytes: _Count
    sha256: str


class Index(Record):
    """The contents of `index.json`."""

    step: _Count
    facts: dict[str, Any]  # about the run, shown when the store is listed
    parts: list[Part]


def newest_checkpoint(run: Path) -> int | None:
    """The step of the newest complete checkpoint; None if there is none."""
    # Orbax writes under a temporary, non-numeric name and then renames.
    found = [int(path.name) for path in run.glob("checkpoints/*") if path.name.isdigit()]
    return max(found, default=None)


def write(
    run: Path, store: Path, facts: Mapping[str, Any], most_bytes: int = MOST_BYTES
) -> Index | None:
    """Pack a run; older packs are removed once the new one has been read back completely.

    Args:
      run: run folder.
      store: folder of this run's packs.
      facts: facts about the run to keep in the index.
      most_bytes: largest size of a file.

    Returns:
      The pack's index; None if the run has no checkpoint yet.

    Raises:
      OSError: the pack reads back differently, or the disk is full.
    """
    step = newest_checkpoint(run)
    if step is None:
        return None
    target = store / str(step)
    (target / INDEX).unlink(missing_ok=True)  # from the same step with other facts
    target.mkdir(parents=True, exist_ok=True)
    parts: list[Part] = []
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path in _files(run, step):
                tar.add(path, path.relative_to(run), recursive=False)
        archive.seek(0)
        while content := archive.read(most_bytes):
            (target / _name(len(parts))).write_bytes(content)
            parts.append(Part(bytes=len(content), sha256=hashlib.sha256(content).hexdigest()))
    index = Index(step=step, facts=dict(facts), parts=parts)
    aside = target / f"{INDEX}.aside"
    aside.write_text(json.dumps(index.model_dump(), indent=1) + "\n")
    aside.rename(target / INDEX)
    if problem := damage(target):
        raise OSError(f"{target} was not written whole ({problem}): is the disk failing?")
    for other in _packs(store):
        if other != target:
            shutil.rmtree(other)
    return index


def read(store: Path, run: Path) -> Index | None:
    """Unpack the newest intact pack into a run folder, which must not exist.

    Returns:
      The pack's index; None if there are no packs.

    Raises:
      ValueError: there are packs, and all are damaged.
    """
    problems = []
    for pack in _packs(store):
        if problem := damage(pack):
            problems.append(f"{pack.name}: {problem}")
            continue
        index = read_index(pack)
        aside = run.with_name(f"{run.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        with tempfile.TemporaryFile() as archive:
            for number in range(len(index.parts)):
                archive.write((pack / _name(number)).read_bytes())
            archive.seek(0)
            with tarfile.open(fileobj=archive) as tar:
                tar.extractall(aside, filter="data")
        aside.rename(run)
        return index
    if problems:
        raise ValueError(
            f"{store}: every pack is damaged ({'; '.join(problems)}): fetch it anew, or remove the "
            "folder to start this run from nothing."
        )
    return None


def newest_index(store: Path) -> Index | None:
    """The newest readable index; the parts of its pack are not checked."""
    for pack in _packs(store):
        try:
            return read_index(pack)
        except ValueError:
            continue
    return None


def read_index(pack: Path) -> Index:
    """Read a pack's index.

    Raises:
      ValueError: it is missing or damaged.
    """
    try:
        tree = json.loads((pack / INDEX).read_text())
    except FileNotFoundError:
        raise ValueError(f"{INDEX} is missing") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{INDEX} holds no JSON object")
    return validation.parse(Index, tree, "index")


def damage(pack: Path) -> str:
    """What is wrong with a pack, or ""."""
    try:
        index = read_index(pack)
    except ValueError as error:
        return str(error)
    for number, part in enumerate(index.parts):
        path = pack / _name(number)
        if not path.exists():
            return f"{path.name} is missing"
        if hashlib.sha256(path.read_bytes()).hexdigest() != part.sha256:
            return f"{path.name} has another checksum"
    return ""


def _packs(store: Path) -> list[Path]:
    """The packs in a store, newest first."""
    found = [path for path in store.glob("*") if path.name.isdigit()]
    return sorted(found, key=lambda path: -int(path.name))


def _files(run: Path, step: int) -> Iterator[Path]:
    patterns = (*KEPT, f"checkpoints/{step}/**/*")
    yield from sorted(p for pattern in patterns for p in run.glob(pattern) if p.is_file())


def _name(number: int) -> str:
    return f"{number:03d}.part"
