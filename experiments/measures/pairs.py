"""Pairs without classes: retrieval by a learned judge, and attributes of generated pictures.

Every part compares these sides: "real" test pairs, the ceiling; "joint" samples from the prior;
"pictures_drawn" given the other modality; and "others_drawn" given the picture, both by
`sample(given=…)`. All are converted to raw data before judging, so that no judge sees
probabilities.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from experiments.judges import AttributeJudge, PairJudge, Raw, pairs
from experiments.measures.subject import (
    Measure,
    Part,
    Subject,
    complete_training_examples,
    needs,
)
from mmebm_jax.metrics import attributes, matching
from mmebm_jax.training import Run

# A word counts as visible if the classifier finds it more often, by this margin, in real test
# pictures whose sentence names it than in others, and if at least this many sentences name it.
VISIBLE, FEWEST = 0.1, 10
MEAN = "mean"

Side = tuple[np.ndarray, np.ndarray]
"""What is seen of N examples and what is asked of them, `int[N, A]` each."""


def pictures_and_others(run: Run) -> str:
    """Needs pictures, and a modality of another kind to compare with them."""
    return "" if pairs(run) else "the data have no pictures beside text, vectors or categories"


@needs(pictures_and_others, complete_training_examples)
def pair_retrieval(subject: Subject) -> Part:
    """How often a judge finds an example's partner among 100 candidates, in both directions."""
    found: Part = {}
    for pair in pairs(subject.run):
        judge = PairJudge(subject.run, subject.classifiers.folder, pair)
        picture, other = (modality.name for modality in pair)
        real = judge.vectors(_test(subject))
        sides = {
            "real": real,
            "joint": judge.vectors(_joint(subject)),
            "pictures_drawn": real | {picture: judge.vectors(_drawn(subject, other))[picture]},
            "others_drawn": real | {other: judge.vectors(_drawn(subject, picture))[other]},
            "shuffled": real | {other: np.roll(real[other], 1, axis=0)},
        }
        found[f"{picture}+{other}"] = {
            name: {
                "picture_to_other": matching.retrieval(side[picture], side[other]),
                "other_to_picture": matching.retrieval(side[other], side[picture]),
            }
            for name, side in sides.items()
        }
    both_ways = [
        {name: float(np.mean(list(ways.values()))) for name, ways in sides.items()}
        for sides in found.values()
    ]
    pool = min(matching.POOL, subject.num_sources)
    return {"retrieval": found | {MEAN: _mean(both_ways), "pool": pool, "chance": 1 / pool}}


@needs(pictures_and_others, complete_training_examples)
def attribute_agreement(subject: Subject) -> Part:
    """Do generated pictures show what was asked for, and is what is drawn for pictures right?"""
    values: Part = {}
    words: Part = {}
    for pair in pairs(subject.run):
        judge = AttributeJudge(subject.run, subject.classifiers.folder, pair)
        name = "+".join(modality.name for modality in pair)
        if judge.labels.are_words:
            words[name] = _of_words(subject, judge)
        elif judge.labels.names:
            values[name] = _of_values(subject, judge)
    return {
        part: found | {MEAN: _mean(each[MEAN] for each in found.values())}
        for part, found in (("attributes", values), ("attribute_words", words))
        if found
    }


def _of_values(subject: Subject, judge: AttributeJudge) -> Part:
    """Accuracies for attributes that every example has, next to the majority class's."""
    source, picture = judge.source.name, judge.picture.name
    sides = _pictures(subject, judge)
    asked = sides["real"][1]
    drawn = judge.labels.read(_drawn(subject, picture)[source])
    sides["others_drawn"] = (drawn, asked)
    table = {}
    for index, name in enumerate(judge.labels.names):
        commonest = np.bincount(judge.of_training[:, index]).argmax()
        table[name] = _rates(sides, index) | {
            "majority": float(np.mean(asked[:, index] == commonest))
        }
    return {MEAN: _mean(table.values()), "by_attribute": table}


def _of_words(subject: Subject, judge: AttributeJudge) -> Part:
    """For words: how often the classifier finds those that a sentence names."""
    sides = _pictures(subject, judge)
    table, visible = {}, []
    for index, name in enumerate(judge.labels.names):
        found = _rates(sides, index, only_named=True)
        named = int(sides["real"][1][:, index].sum())
        table[name] = found | {"named": named}
        if named >= FEWEST and found["real"] - found["real_shuffled"] >= VISIBLE:
            visible.append(index)
    part: Part = {"num_visible": len(visible), MEAN: {}, "by_word": table}
    if not visible:
        return part
    drawn = _drawn(subject, judge.picture.name)[judge.source.name]
    sentences = attributes.right_words(
        judge.labels.read(drawn)[:, visible] > 0,
        judge.of_test(subject.num_sources)[:, visible] > 0,
        judge.of_training.mean(axis=0)[visible],
    )
    part["visible"] = [judge.labels.names[index] for index in visible]
    rates = ({k: v for k, v in table[name].items() if k != "named"} for name in part["visible"])
    part[MEAN] = _mean(rates) | {f"sentences_{k}": value for k, value in sentences.items()}
    return part


def _pictures(subject: Subject, judge: AttributeJudge) -> dict[str, Side]:
    """What the classifier sees in pictures, and what was asked for."""
    source, picture, read = judge.source.name, judge.picture.name, judge.labels.read
    test, joint = _test(subject), _joint(subject)
    asked = read(test[source])
    return {
        "real": (judge.seen_in(test[picture]), asked),
        "pictures_drawn": (judge.seen_in(_drawn(subject, source)[picture]), asked),
        "joint": (judge.seen_in(joint[picture]), read(joint[source])),
    }


def _rates(sides: Mapping[str, Side], index: int, *, only_named: bool = False) -> dict[str, float]:
    """Each side's agreement on one attribute, with its floor; words count only where named."""
    rates: dict[str, float] = {}
    for name, (seen, asked) in sides.items():
        among = asked[:, index] > 0 if only_named else None
        found = attributes.agreement(seen[:, index], asked[:, index], among)
        if found is not None:
            rates |= {name: found.rate, f"{name}_shuffled": found.shuffled}
    return rates


def _mean(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each entry over the rows that have it."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _test(subject: Subject) -> Raw:
    return subject.once("raw test", lambda: subject.sampler.as_raw(subject.sources))


def _joint(subject: Subject) -> Raw:
    return subject.once("raw samples", lambda: subject.sampler.as_raw(subject.samples))


def _drawn(subject: Subject, source: str) -> Raw:
    """The draws of `sample(given=…)` for one modality of the test examples, as raw data."""
    return subject.once(("raw draws", source), lambda: subject.sampler.as_raw(subject.draw(source)))


MEASURES: tuple[Measure, ...] = (pair_retrieval, attribute_agreement)
