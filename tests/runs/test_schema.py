import subprocess
import sys

import pytest

from experiments import configuration
from mmebm_jax.method.model import NETWORKS
from mmebm_jax.modalities.kinds import KINDS
from mmebm_jax.runs import schema
from mmebm_jax.storage.validation import leaves


def test_the_page_of_all_fields_is_current():
    assert configuration.PAGE.read_text() == configuration.page(), (
        "write it anew: python -m experiments.configuration"
    )


def test_every_field_has_a_meaning():
    for name, field in leaves(schema.record()):
        assert field.description, name


def test_sections_are_those_of_the_code():
    assert tuple(schema.Optimisers.model_fields) == NETWORKS
    assert tuple(schema.Likelihoods.model_fields) == tuple(KINDS)


def test_a_config_becomes_a_record_that_does_not_change():
    config = schema.defaults("ring")
    config.prior.chain.step_size = 1  # an int where any number is allowed
    record = schema.parse(config)
    assert record.model_dump() == config.to_dict()
    assert isinstance(record.prior.chain.step_size, float)
    with pytest.raises(ValueError, match="frozen"):
        record.seed = 3


def test_what_no_section_is_gives_one_line():
    for value in (3, None, [], "config"):
        with pytest.raises(ValueError, match=r"^config is .*: it must be a section of fields\.$"):
            schema.parse(value)
    tree = schema.defaults().to_dict()
    for name in ("\ud800", "\0", 3, "x" * 5000):
        with pytest.raises(ValueError, match=r"^config\.guard\..* is unknown: known are") as caught:
            schema.parse(tree | {"guard": tree["guard"] | {name: 1}})
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 200
    del tree["data"]["name"]
    with pytest.raises(ValueError, match=r"^config\.data\.name is missing"):
        schema.parse(tree)


DOTS = """
import numpy as np
from pydantic import Field
from mmebm_jax.data.source import ArraySource, DataSplits
from mmebm_jax.data.source import Field as Modality
from mmebm_jax.storage.validation import Record

class Options(Record):
    num_train: int = Field(5, ge=1, le=9, description="Training examples.")

def load(options, *, prepare=True):
    arrays = {"x": np.zeros([options.num_train, 2], np.float32)}
    source = ArraySource(arrays | {"label": np.zeros(options.num_train, np.int32)})
    return DataSplits(source, source, {"x": Modality("vector", (2,))}, 1, "")
"""
PROGRAM = """
import importlib, sys
import mmebm_jax.data
from mmebm_jax.data import sets
sets.__path__.append(sys.argv[1])
importlib.reload(mmebm_jax.data)
from mmebm_jax.runs import builders, schema
config = schema.defaults("dots")
config.data.num_train = 7
builders.validate(config)
assert len(builders.build_data(config).train) == 7
config.data.num_train = 10
try:
    builders.validate(config)
except ValueError as error:
    print(error)
builders.build_data(schema.defaults("polydigits"))
print("tensorflow_datasets" in sys.modules)
"""


def test_a_data_set_is_one_file_and_needs_no_library_of_others(tmp_path):
    (tmp_path / "dots.py").write_text(DOTS)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "config.data.num_train is 10: it must be a whole number in [1, 9].",
        "False",
    ], done.stderr
