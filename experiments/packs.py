"""A run's folder as files of bounded size, to carry it from one machine to the next.

A pack is `STORE/STEP/000.part`, `001.part`, … : one tar file cut into pieces, beside `index.json`,
which is written last and holds their sizes and checksums. It has what resuming needs, the newest
checkpoint among it, and neither pictures nor event files.
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
MOST_BYTES = 15_000_000  # of a file
KEPT = ("*.json", "*.jsonl", "classifiers/**/*")
_Count = Annotated[int, pydantic.Field(ge=0, le=2**40)]


class Part(Record):
    """One piece."""

    bytes: _Count
    sha256: str


class Index(Record):
    """What `index.json` holds."""

    step: _Count
    facts: dict[str, Any]  # of the run, for whoever lists the store
    parts: list[Part]


def newest_checkpoint(run: Path) -> int | None:
    """The step of the newest checkpoint that is complete; None without any."""
    # Orbax writes aside, under a name that is no number, and renames.
    found = [int(path.name) for path in run.glob("checkpoints/*") if path.name.isdigit()]
    return max(found, default=None)


def write(
    run: Path, store: Path, facts: Mapping[str, Any], most_bytes: int = MOST_BYTES
) -> Index | None:
    """Pack a run; older packs go once the new one has been read back whole.

    Args:
      run: the run's folder.
      store: of this run's packs.
      facts: to keep in the index.
      most_bytes: of each file.

    Returns:
      The pack's index; None where the run has no checkpoint yet.

    Raises:
      OSError: what was written differs from what was meant, or the disk is full.
    """
    step = newest_checkpoint(run)
    if step is None:
        return None
    target = store / str(step)
    (target / INDEX).unlink(missing_ok=True)  # of the same step with other facts
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
    """Unpack the newest whole pack into a run's folder, which must not exist.

    Returns:
      Its index; None where there are no packs.

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
    """The index of the newest pack that has a readable one; its parts are not looked at."""
    for pack in _packs(store):
        try:
            return read_index(pack)
        except ValueError:
            continue
    return None


def read_index(pack: Path) -> Index:
    """A pack's index.

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
    """The newest first."""
    found = [path for path in store.glob("*") if path.name.isdigit()]
    return sorted(found, key=lambda path: -int(path.name))


def _files(run: Path, step: int) -> Iterator[Path]:
    patterns = (*KEPT, f"checkpoints/{step}/**/*")
    yield from sorted(p for pattern in patterns for p in run.glob(pattern) if p.is_file())


def _name(number: int) -> str:
    return f"{number:03d}.part"
