"""Writing files so that a reader, or a run that dies, never meets half of one."""

from etils import epath


def write_whole(path: epath.Path, content: bytes | str) -> None:
    """Write aside, then rename into place; an existing file stays until the new one is complete."""
    aside = path.parent / f"{path.name}.part"
    if isinstance(content, str):
        aside.write_text(content)
    else:
        aside.write_bytes(content)
    aside.replace(path)
