"""A text to learn from: its parts, its characters as tokens, its streams, simple rivals' scores."""

import lzma
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics
from typing import NamedTuple

import numpy as np

from jaxrnn import check
from jaxrnn.cli.options import UserError, at_fault

HELD_OUT = 20  # one part in so many, the last, is never trained on
XZ_REACH = 2**23  # bytes; xz's usual dictionary, so that text farther back cannot help it


class Corpus(NamedTuple):
    """A text in three parts.

    Fields:
        training: all but the last 5 %.
        validation: the first half of the rest, which selects among the parameters of a training.
        test: the second half, which has no part in the training.
        vocabulary: every character of the text, once, in the order of their code points.
    """

    training: str
    validation: str
    test: str
    vocabulary: str


class Segment(NamedTuple):
    """Some consecutive steps of B streams.

    Fields:
        inputs: tokens `(T, B)`.
        targets: tokens `(T, B)`, each the one that comes after its input.
        first: bool, whether the streams begin here.
    """

    inputs: np.ndarray
    targets: np.ndarray
    first: np.bool_


def read(path: Path | str | None) -> str:
    """The text of a file; UserError if it cannot be read as UTF-8.

    A byte order mark is no part of the text, and each line ends with one newline, however the file
    has it. Without a path the text is the prose of `pydoc_data.topics`, Python's own reference, in
    its own order.
    """
    if path is None:
        return "\n".join(topics.topics.values())
    with at_fault("--text", path, "a readable file of UTF-8 text"):
        text = Path(path).read_text("utf-8-sig")
    return text


def split(text: str, batch_size: int, segment_length: int) -> Corpus:
    """The three parts; UserError if any is too short for one segment."""
    cut = len(text) - len(text) // HELD_OUT
    held_out = text[cut:]
    half = len(held_out) // 2
    least = batch_size * segment_length + 1
    got = f"{cut} characters to train on and {len(held_out)} held out"
    expected = f"at least {least} (batch size times segment length, and one) "
    expected += f"and {segment_length} (segment length) in each half of those held out"
    check.require(cut >= least and half >= segment_length, "--text", got, expected, UserError)
    vocabulary = "".join(sorted(set(text)))
    return Corpus(text[:cut], held_out[:half], held_out[half:], vocabulary)


def encode(name: str, text: str, vocabulary: str) -> np.ndarray:
    """Tokens int32 `(T,)`, places in the vocabulary; UserError with that name if any has none."""
    unknown = sorted(set(text) - set(vocabulary))
    expected = "only characters that the model was trained on"
    check.require(not unknown, name, ", ".join(map(repr, unknown)), expected, UserError)
    # Each character as a number, which orders them as Python does.
    known, points = (np.frombuffer(part.encode("utf-32-le"), "<u4") for part in (vocabulary, text))
    return np.searchsorted(known, points).astype(np.int32)


def segments(tokens: np.ndarray, batch_size: int, length: int) -> Iterator[Segment]:
    """Without end, segment after segment of B streams of equal length cut out of the tokens.

    At the end of the streams they begin again; what does not fill a segment is left out.
    """
    size = (len(tokens) - 1) // batch_size
    inputs, targets = (tokens[i:][: batch_size * size].reshape(batch_size, -1).T for i in (0, 1))
    while True:
        for start in range(0, size - length + 1, length):
            steps = slice(start, start + length)
            yield Segment(inputs[steps], targets[steps], np.bool_(start == 0))


def unigram_bits(corpus: Corpus) -> float:
    """Bits per character of the test part for a model that knows how often each occurs in training.

    Every character of the vocabulary counts once more than it occurs, so that none is impossible.
    """
    counts = Counter(corpus.training + corpus.vocabulary)
    frequencies = np.array([counts[one] for one in corpus.test]) / counts.total()
    return float(np.mean(np.log2(1 / frequencies)))


def xz_bits(corpus: Corpus) -> float:
    """Bits that xz adds per character of the test part when it has the training text in front."""
    before = corpus.training.encode()[-XZ_REACH:]
    added = len(lzma.compress(before + corpus.test.encode())) - len(lzma.compress(before))
    return added * 8 / len(corpus.test)
