"""Write the table of all configuration fields: docs/configuration.md.

python -m experiments.configuration
"""

from etils import epath

from mmebm_jax.data import DATA_SETS, section
from mmebm_jax.runs import schema
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.validation import Record, allowed, leaves

PAGE = epath.Path(__file__).parent.parent / "docs" / "configuration.md"
HEAD = """\
# Every field of a configuration

Made by `python -m experiments.configuration` from `mmebm_jax/runs/schema.py` and the data sets' own
`Options`. A config in `configs/` starts from these defaults and states what differs;
`--mode=check` prints those differences for a run. Any field can be set on the command line, as in
`--config.posterior.chain.num_steps=20`. "[a, b)" is a range that holds a but not b.
"""


def page() -> str:
    """The page as Markdown."""
    shared = table(schema.Config, hidden="data.")
    parts = [HEAD, "## All data sets", shared]
    for name in DATA_SETS:
        parts += [f"## The section `data` of {name}", table(section(name), prefix="data.")]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table(record: type[Record], *, prefix: str = "", hidden: str = ".") -> str:
    """The fields of a record: name, allowed values, default and meaning.

    Args:
      record: a section or the whole configuration.
      prefix: prepended to the names.
      hidden: fields whose names start with this are left out.
    """
    values = record()
    lines = ["| field | what it holds | default | meaning |", "|---|---|---|---|"]
    for name, field in leaves(record):
        if not name.startswith(hidden):
            kind = allowed(field).removeprefix("it must be ").removeprefix("choose ")
            meaning = str(field.description).replace("|", "\\|")
            default = repr(schema.at(values, name))
            lines.append(f"| `{prefix}{name}` | {kind} | `{default}` | {meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    write_whole(PAGE, page())
