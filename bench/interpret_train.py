"""Learns the second reader's weights from requests that people made.

    .venv/bin/uv run --no-project --python .venv/bin/python \
        --with-requirements bench/interpret_train.lock \
        python -m bench.interpret_train [--cross FOLDER [--seed N] | --without SOURCE --output FILE]

It reads the sets of which README.md says that their licences allow it, and writes the table that
ships with the gateway. The same sets and the same code give the same table.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from bench.interpret_score import (
    NOW,
    PARTS,
    ZONE,
    Request,
    data_folder,
    domains,
    part_of,
    requests_in,
)
from services.gateway.interpret import second
from services.gateway.interpret.agreement import wanted
from services.gateway.interpret.rules import read_by_rules
from services.gateway.interpret.scene import scene_of
from services.gateway.interpret.second import ASKED, OTHER, SCALE, Seen
from services.gateway.interpret.verdict import signs_of
from services.gateway.reading import Reading, nearest_locale

OUTPUT = Path(second.__file__).parent / second.WEIGHTS
# A word is learned where several trades or several sets have it, and no one trade's nouns are.
TRADES = 2
SEEN_AT_LEAST = 3
RUNS_AT_LEAST = 2
LETTERS_AT_LEAST = 4
# How far weights may go to fit the requests: those of words, and those of letters.
STRENGTH = 0.25
LOOSE = 0.2
# The smallest weight that is kept, in SCALEths, and the largest.
LEAST = 2
MOST = 255
HEADER = """\
# The second reader's weights, written by bench/interpret_train.py: for and against
# {asked}, in {scale}ths. Learned from the requests of
# SGD (Rastogi et al., CC BY-SA 4.0), Facebook multilingual (Schuster et al., CC BY-SA),
# HWU64 (Liu et al.), SLURP (Bastianelli et al.), BANKING77 (Casanueva et al.), NLU++ (Casanueva
# et al.), EHRSQL (Lee et al.), Home Assistant intents (all CC BY 4.0), CLINC150 (Larson et al.,
# CC BY 3.0), Microsoft's skills (MIT), Mycroft's skills (Apache-2.0), a clinic's chat log (CC0).
# No sentence of theirs is in it. This table is under CC BY-SA 4.0.
"""


@dataclass(frozen=True)
class Met:
    """A request as the second reader meets it."""

    request: Request
    seen: list[Seen]
    signs: frozenset[str]
    letters: frozenset[str]


def met(request: Request) -> Met:
    scene = scene_of(request.text, domains(), Reading(nearest_locale(request.locale), ZONE, NOW))
    words = wanted(scene)
    return Met(
        request,
        second.places(words, scene),
        signs_of(read_by_rules(scene), scene),
        frozenset(second.letters(words, group(request))),
    )


def general_words(every: Sequence[Met]) -> set[str]:
    """The words that are not of one trade, each with its language group before it."""
    trades: dict[str, set[str]] = defaultdict(set)
    sets: dict[str, set[str]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for each in every:
        request = each.request
        for word in {f"{group(request)} {one.word}" for one in each.seen if one.sign == OTHER}:
            counts[word] += 1
            trades[word].add(request.domain)
            sets[word].add(f"{request.source} {request.locale[:2]}")
    return {
        word
        for word, count in counts.items()
        if count >= SEEN_AT_LEAST and max(len(trades[word]), len(sets[word])) >= TRADES
    }


def group(request: Request) -> str:
    return second.group_of(request.locale)


def general(each: Met, words: set[str]) -> list[Seen]:
    return [
        one
        if one.sign != OTHER or f"{group(each.request)} {one.word}" in words
        else Seen(OTHER, OTHER)
        for one in each.seen
    ]


def learn(every: Sequence[Met]) -> dict[str, tuple[int, ...]]:
    """The table: each feature with its weights, of which each half says half."""
    words = general_words(every)
    asked = [each.request.operation for each in every]
    by_words = [
        {*second.features(general(each, words), group(each.request)), *each.signs} for each in every
    ]
    halves = (
        fitted(by_words, asked, at_least=RUNS_AT_LEAST, strength=STRENGTH),
        fitted([each.letters for each in every], asked, at_least=LETTERS_AT_LEAST, strength=LOOSE),
    )
    table = {
        name: tuple(map(int, row))
        for names, weights, _ in halves
        for name, row in zip(names, in_scale(weights.T), strict=True)
        if max(map(abs, row)) >= LEAST
    }
    known = {word: (0,) * len(ASKED) for word in words if word not in table}
    bias = tuple(map(int, in_scale(sum(each for _, _, each in halves))))
    return {"bias": bias, **known, **table}


def in_scale(weights: NDArray[np.float64]) -> NDArray[np.int_]:
    return np.rint(SCALE * weights / 2).clip(-MOST, MOST).astype(int)


def fitted(
    found: Sequence[Collection[str]], asked: Sequence[str], *, at_least: int, strength: float
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """The features that so many requests have, the weights of each, and those of none."""
    counts = Counter(feature for each in found for feature in each)
    names = sorted(each for each, count in counts.items() if count >= at_least)
    index = {name: place for place, name in enumerate(names)}
    columns = [[index[each] for each in sorted(every) if each in index] for every in found]
    ends = np.cumsum([0, *map(len, columns)])
    flat = np.concatenate([np.array(each, dtype=int) for each in columns])
    matrix = csr_matrix((np.ones(len(flat)), flat, ends), shape=(len(found), len(names)))
    model = LogisticRegression(C=strength, max_iter=500, tol=1e-3)
    model.fit(matrix, [ASKED.index(each) for each in asked])
    return names, model.coef_, model.intercept_


def written(table: dict[str, tuple[int, ...]]) -> str:
    header = HEADER.format(asked=", ".join(ASKED), scale=SCALE)
    rows = (f"{name}\t{' '.join(map(str, table[name]))}\n" for name in sorted(table))
    return header + "".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.interpret_train", description="Learn the second reader."
    )
    told = "write instead one table for each part of the requests, learned without it"
    parser.add_argument("--cross", type=Path, metavar="FOLDER", help=told)
    parser.add_argument("--seed", type=int, default=0, help="with --cross: part them otherwise")
    parser.add_argument("--without", metavar="SOURCE", help="with --output: leave a source out")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args()
    folder = data_folder()
    if folder is None:
        sys.stderr.write("the requests are absent: set GATEHOUSE_TEST_DATA to their folder\n")
        return 2
    every = [met(each) for each in requests_in(folder) if each.source != asked.without]
    if asked.cross is None:
        asked.output.write_text(written(learn(every)), encoding="utf-8")
        return 0
    asked.cross.mkdir(exist_ok=True)
    for part in range(PARTS):
        table = learn([each for each in every if part_of(each.request, asked.seed) != part])
        (asked.cross / f"without{part}.tsv").write_text(written(table), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
