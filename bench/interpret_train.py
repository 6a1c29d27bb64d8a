"""Learns the second reader's weights from requests that people made.

    .venv/bin/uv run --no-project --python .venv/bin/python \
        --with-requirements bench/interpret_train.lock \
        python -m bench.interpret_train [--cross FOLDER | --without SOURCE --output FILE]

It reads the sets of which README.md says that their licences allow it, and writes the table that
ships with the gateway. The same sets and the same code give the same table.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
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
from services.gateway.interpret.scene import scene_of
from services.gateway.interpret.second import ASKED, OTHER, SCALE, Seen
from services.gateway.interpret.text import words_of
from services.gateway.interpret.texts import with_texts
from services.gateway.reading import Reading, supported

OUTPUT = Path(second.__file__).parent / second.WEIGHTS
# A word is learned where several trades or several sets have it, and no one trade's nouns are.
TRADES = 2
SEEN_AT_LEAST = 3
RUNS_AT_LEAST = 2
STRENGTH = 0.25
HEADER = """\
# The second reader's weights, written by bench/interpret_train.py: for and against
# {asked}, in {scale}ths. Learned from the requests of
# SGD (Rastogi et al., CC BY-SA 4.0), Facebook multilingual (Schuster et al., CC BY-SA),
# HWU64 (Liu et al.), SLURP (Bastianelli et al.), BANKING77 (Casanueva et al.), NLU++ (Casanueva
# et al.), EHRSQL (Lee et al.), Home Assistant intents (all CC BY 4.0), CLINC150 (Larson et al.,
# CC BY 3.0), Microsoft's skills (MIT), Mycroft's skills (Apache-2.0), a clinic's chat log (CC0).
# No sentence of theirs is in it. This table is under CC BY-SA 4.0.
"""


def seen_in(request: Request) -> list[Seen]:
    reading = Reading(supported(request.locale), ZONE, NOW)
    scene = scene_of(request.text, domains(), reading)
    words = with_texts(request.text, words_of(request.text), scene.lexicon, scene.vocabulary)
    return second.places(words, scene)


def general_words(requests: Sequence[Request], seen: Sequence[Sequence[Seen]]) -> set[str]:
    """The words that are not of one trade, each with its language group before it."""
    trades: dict[str, set[str]] = defaultdict(set)
    sets: dict[str, set[str]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for request, each in zip(requests, seen, strict=True):
        for word in {f"{group(request)} {one.word}" for one in each if one.sign == OTHER}:
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


def general(request: Request, seen: Iterable[Seen], words: set[str]) -> list[Seen]:
    return [
        each
        if each.sign != OTHER or f"{group(request)} {each.word}" in words
        else Seen(OTHER, OTHER)
        for each in seen
    ]


def learn(requests: Sequence[Request]) -> dict[str, tuple[int, ...]]:
    """The table: each feature with its weights."""
    seen = [seen_in(each) for each in requests]
    words = general_words(requests, seen)
    found = [
        set(second.features(general(request, each, words), group(request)))
        for request, each in zip(requests, seen, strict=True)
    ]
    counts = Counter(feature for each in found for feature in each)
    names = sorted(each for each, count in counts.items() if count >= RUNS_AT_LEAST)
    model = fitted(found, names, [each.operation for each in requests])
    rows = np.rint(SCALE * model.coef_.T).clip(-127, 127).astype(int)
    table = {name: tuple(map(int, row)) for name, row in zip(names, rows, strict=True)}
    kept = {
        name: row
        for name, row in table.items()
        if any(row) or (name.count(" ") == 1 and name.split()[1] in words)
    }
    known = {word: (0,) * len(ASKED) for word in words if word not in kept}
    bias = tuple(int(each) for each in np.rint(SCALE * model.intercept_))
    return {"bias": bias, **known, **kept}


def fitted(
    found: Sequence[set[str]], names: Sequence[str], asked: Sequence[str]
) -> LogisticRegression:
    index = {name: place for place, name in enumerate(names)}
    columns = [[index[each] for each in sorted(every) if each in index] for every in found]
    ends = np.cumsum([0, *map(len, columns)])
    flat = np.concatenate([np.array(each, dtype=int) for each in columns])
    matrix = csr_matrix((np.ones(len(flat)), flat, ends), shape=(len(found), len(names)))
    model = LogisticRegression(C=STRENGTH, max_iter=500, tol=1e-3)
    return model.fit(matrix, [ASKED.index(each) for each in asked])


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
    parser.add_argument("--without", metavar="SOURCE", help="with --output: leave a source out")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args()
    folder = data_folder()
    if folder is None:
        sys.stderr.write("the requests are absent: set GATEHOUSE_TEST_DATA to their folder\n")
        return 2
    requests = [each for each in requests_in(folder) if each.source != asked.without]
    if asked.cross is None:
        asked.output.write_text(written(learn(requests)), encoding="utf-8")
        return 0
    asked.cross.mkdir(exist_ok=True)
    for part in range(PARTS):
        table = learn([each for each in requests if part_of(each) != part])
        (asked.cross / f"without{part}.tsv").write_text(written(table), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
