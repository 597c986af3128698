"""A text to learn from: its characters as tokens, its parts, its streams, what it is worth."""

import lzma
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics
from typing import NamedTuple

import numpy as np

from jaxrnn import check
from jaxrnn.app.options import UserError, at_fault

HELD_OUT = 20  # one part in so many, the last, is never trained on
XZ_REACH = 2**23  # bytes; xz's usual dictionary, so that text farther back cannot help it


class Corpus(NamedTuple):
    """A text in two parts.

    Fields:
        training: what is learned from.
        held_out: the last 5 %, which is not.
        vocabulary: every character of either, once, in the order of their code points.
    """

    training: str
    held_out: str
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

    Without a path it is the prose of `pydoc_data.topics`, Python's own reference, in its own order.
    """
    if path is None:
        return "\n".join(topics.topics.values())
    with at_fault("--text", path, "a readable file of UTF-8 text"):
        text = Path(path).read_text("utf-8")
    return text


def split(text: str, batch_size: int, segment_length: int) -> Corpus:
    """The two parts; UserError if either is too short for one segment."""
    cut = len(text) - len(text) // HELD_OUT
    corpus = Corpus(text[:cut], text[cut:], "".join(sorted(set(text))))
    rest, least = len(corpus.held_out), batch_size * segment_length + 1
    expected = f"at least {least} (batch size times segment length, and one) "
    expected += f"and {segment_length} (segment length)"
    got = f"{cut} characters to train on and {rest} held out"
    check.that(cut >= least and rest >= segment_length, "--text", got, expected, UserError)
    return corpus


def encode(name: str, text: str, vocabulary: str) -> np.ndarray:
    """Tokens int32 `(T,)`, places in the vocabulary; UserError with that name if any has none."""
    unknown = sorted(set(text) - set(vocabulary))
    expected = "only characters that the model was trained on"
    check.that(not unknown, name, ", ".join(map(repr, unknown)), expected, UserError)
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
    """Bits per held-out character for a model that knows how often each occurs in training.

    Every character of the vocabulary counts once more than it occurs, so that none is impossible.
    """
    counts = Counter(corpus.training + corpus.vocabulary)
    frequencies = np.array([counts[one] for one in corpus.held_out]) / counts.total()
    return float(-np.mean(np.log2(frequencies)))


def xz_bits(corpus: Corpus) -> float:
    """Bits per held-out character that xz adds when it has the training text in front."""
    before = corpus.training.encode()[-XZ_REACH:]
    added = len(lzma.compress(before + corpus.held_out.encode())) - len(lzma.compress(before))
    return added * 8 / len(corpus.held_out)
