"""A text as training data: its parts, its tokens, its streams, and scores of simple baselines."""

import itertools
import lzma
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics
from typing import NamedTuple

import numpy as np

from jaxrnn import check
from jaxrnn.cli.options import UserError, as_user_error

HELD_OUT = 20  # the last 1/20 of the text is held out
XZ_WINDOW = 2**23  # bytes, the default dictionary of xz: it does not use text farther back


class Corpus(NamedTuple):
    """A text in three parts.

    Fields:
        training: the first 95 %.
        validation: the first half of the rest, which selects the parameters that are saved.
        test: the second half of the rest, which training does not use.
        vocabulary: all different characters of the text, in the order of their code points.
    """

    training: str
    validation: str
    test: str
    vocabulary: str


class Segment(NamedTuple):
    """Consecutive steps of B streams.

    Fields:
        inputs: tokens `(T, B)`.
        targets: tokens `(T, B)`, each the token after its input.
        first: whether the streams begin with this segment.
    """

    inputs: np.ndarray
    targets: np.ndarray
    first: np.bool_


def read(path: Path | str | None) -> str:
    """Reads a text; UserError if it is not UTF-8.

    A byte order mark is left out, and all line ends become a single newline character. Without a
    path, the text is `pydoc_data.topics`, Python's language reference, in the order of the module.
    """
    if path is None:
        return "\n".join(topics.topics.values())
    with as_user_error("--text", path, "a readable file of UTF-8 text"):
        return Path(path).read_text("utf-8-sig")


def split(text: str, batch_size: int, segment_length: int) -> Corpus:
    """Splits a text into its three parts; UserError if a part is too short for one segment."""
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
    """Returns tokens int32 `(T,)`, the indices of characters in the vocabulary.

    Raises a UserError about the argument `name` if a character is not in the vocabulary.
    """
    unknown = sorted(set(text) - set(vocabulary))
    expected = "only characters that the model was trained on"
    check.require(not unknown, name, ", ".join(map(repr, unknown)), expected, UserError)

    def code_points(text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-32-le"), "<u4")

    return np.searchsorted(code_points(vocabulary), code_points(text)).astype(np.int32)


def segments(tokens: np.ndarray, batch_size: int, length: int, first: int = 0) -> Iterator[Segment]:
    """Yields segments of B streams without end; the streams are consecutive parts of the tokens.

    After their end, the streams begin again. Tokens that do not fill a segment are left out. The
    segments are those from number `first` on.
    """
    size = (len(tokens) - 1) // batch_size
    inputs = tokens[: batch_size * size].reshape(batch_size, -1).T
    targets = tokens[1 : 1 + batch_size * size].reshape(batch_size, -1).T
    for number in itertools.count(first):
        start = number % (size // length) * length
        steps = slice(start, start + length)
        yield Segment(inputs[steps], targets[steps], np.bool_(start == 0))


def unigram_bits(corpus: Corpus) -> float:
    """Returns bits per character of the test part under the character frequencies of the training.

    One is added to the count of every character of the vocabulary, so that none is impossible.
    """
    counts = Counter(corpus.training + corpus.vocabulary)
    frequencies = np.array([counts[character] for character in corpus.test]) / counts.total()
    return float(np.mean(np.log2(1 / frequencies)))


def xz_bits(corpus: Corpus) -> float:
    """Returns the bits that xz needs per character of the test part, after the training text."""
    before = corpus.training.encode()[-XZ_WINDOW:]
    added = len(lzma.compress(before + corpus.test.encode())) - len(lzma.compress(before))
    return added * 8 / len(corpus.test)
