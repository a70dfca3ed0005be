"""The TFDS builder of PolyMNIST, separate from `sets.polymnist` since TFDS is slow to import."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mmebm_jax.data.sets import polymnist
from mmebm_jax.data.sets.polymnist import MODALITIES, RELEASE, RELEASE_NOTES, SIZE, SPLITS, VARIANTS


@dataclasses.dataclass(kw_only=True)
class PolyMnistConfig(tfds.core.BuilderConfig):
    """What to build: ``variant`` is one of `VARIANTS`; ``seed`` only affects from_mnist."""

    variant: str = "from_mnist"
    seed: int = 0

    def __post_init__(self) -> None:
        """Gives each variant its own version, so that data of an older version are built again."""
        self.release_notes = RELEASE_NOTES[self.variant]
        self.version = list(self.release_notes)[-1]


class PolyMnist(tfds.core.GeneratorBasedBuilder):
    """TFDS builder: "m0" … "m4" uint8 ``[28, 28, 3]``, and "label" in 0..9."""

    VERSION = tfds.core.Version("1.0.0")
    # Keeps TFDS from looking for checksums next to this file, through importlib_resources, which it
    # uses but does not require. There are none, since TFDS downloads nothing here.
    code_path = None
    BUILDER_CONFIGS = [  # noqa: RUF012
        PolyMnistConfig(name=variant, variant=variant) for variant in VARIANTS
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"from_mnist: the four gzipped MNIST IDX files. official_*: {RELEASE}, unpacked."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        """See the base class."""
        # As bytes: an eighth of the size of TFDS's default, a list of int64, and much faster.
        image = tfds.features.Tensor(shape=(SIZE, SIZE, 3), dtype=np.uint8, encoding="bytes")
        features = dict.fromkeys(MODALITIES, image)
        return tfds.core.DatasetInfo(
            builder=self,
            description=polymnist.__doc__,
            features=tfds.features.FeaturesDict(
                {**features, "label": tfds.features.ClassLabel(num_classes=10)}
            ),
            # The pipeline shuffles; stored order keeps the source's numbering.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        """See the base class."""
        source = Path(dl_manager.manual_dir)
        return {split: self._generate_examples(source, split) for split in SPLITS}

    def _generate_examples(self, source: Path, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """See the base class."""
        config = self.builder_config
        if config.variant == "from_mnist":
            examples = polymnist.from_mnist(source, split, config.seed)
        elif config.variant == "official_png":
            examples = polymnist.from_png(source, split)
        else:
            examples = polymnist.from_pt(source, split)
        for i, label in enumerate(examples.labels):
            views = {name: images[i] for name, images in examples.images.items()}
            yield i, {**views, "label": int(label)}


def prepare(builder: PolyMnist, source: Path) -> None:
    """Writes the data set made from the files in ``source`` into the builder's folder."""
    config = tfds.download.DownloadConfig(manual_dir=str(source))
    builder.download_and_prepare(download_config=config)
