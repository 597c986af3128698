import collections
import itertools
import lzma
import math

import numpy as np
import pytest

from jaxrnn.cli import corpus
from jaxrnn.cli.options import UserError

TEXT = "abracadabra, ½ of a cadabra; " * 20


def test_the_last_twentieth_is_held_out_half_to_select_and_half_to_test():
    training, validation, test, vocabulary = corpus.split(TEXT, batch_size=2, segment_length=8)
    assert training + validation + test == TEXT
    assert len(validation + test) == len(TEXT) // 20
    assert len(test) - len(validation) in (0, 1)
    assert vocabulary == "".join(sorted(set(TEXT)))


def test_the_shortest_text_is_one_segment_for_each_stream_and_one_for_each_held_out_part():
    corpus.split("x" * 320, batch_size=1, segment_length=8)
    with pytest.raises(
        UserError, match=r"--text: got 304 .* 15 held out, expected at least 9 .* 8 "
    ):
        corpus.split("x" * 319, batch_size=1, segment_length=8)
    with pytest.raises(UserError, match=r"got 304 .* 16 held out, expected at least 305 .* and 8 "):
        corpus.split("x" * 320, batch_size=38, segment_length=8)


def test_a_mark_of_byte_order_and_the_ends_of_lines_are_no_characters(tmp_path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\xf0\x9f\x98\x80\r")
    assert corpus.read(tmp_path / "text") == "one\ntwo\n😀\n"


def test_characters_of_any_plane_are_tokens():
    vocabulary = "".join(sorted(set("\n a😀ÿ\uffff")))
    tokens = corpus.encode("text", "😀\n\uffffa", vocabulary)
    assert "".join(vocabulary[token] for token in tokens) == "😀\n\uffffa"
    assert len(corpus.encode("text", "", vocabulary)) == 0


def test_the_default_text_is_long_prose_and_always_the_same():
    text = corpus.read(None)
    assert len(text) > 400_000
    assert "statement" in text
    assert text == corpus.read(None)


def test_tokens_spell_the_text():
    vocabulary = "".join(sorted(set(TEXT)))
    tokens = corpus.encode("text", TEXT, vocabulary)
    assert tokens.dtype == np.int32
    assert "".join(vocabulary[token] for token in tokens) == TEXT


def test_streams_are_consecutive_parts_and_targets_come_one_later():
    tokens = np.arange(100, dtype=np.int32)
    pass_over = list(itertools.islice(corpus.segments(tokens, batch_size=3, length=8), 4))
    assert [bool(segment.first) for segment in pass_over] == [True, False, False, False]
    inputs = np.concatenate([segment.inputs for segment in pass_over])
    # Streams of 33; segments of 8 leave one character of each.
    np.testing.assert_array_equal(inputs, np.arange(32)[:, None] + [0, 33, 66])
    for segment in pass_over:
        np.testing.assert_array_equal(segment.targets, segment.inputs + 1)


def test_streams_begin_again_at_their_end():
    tokens = np.arange(100, dtype=np.int32)
    once, again = itertools.islice(corpus.segments(tokens, batch_size=3, length=17), 2)
    assert once.first
    assert again.first
    np.testing.assert_array_equal(once.inputs, again.inputs)


def test_a_segment_may_be_as_long_as_its_stream():
    (segment,) = itertools.islice(corpus.segments(np.arange(9, dtype=np.int32), 1, 8), 1)
    np.testing.assert_array_equal(segment.targets[:, 0], np.arange(1, 9))


def test_unigram_bits_are_those_of_counts():
    text = corpus.Corpus(training="aabbbc", validation="c", test="abd", vocabulary="abcd")
    counts = collections.Counter("aabbbc" + "abcd")
    bits = [-math.log2(counts[character] / counts.total()) for character in "abd"]
    assert corpus.unigram_bits(text) == pytest.approx(sum(bits) / 3, rel=1e-12)


def test_xz_bits_are_what_the_held_out_text_adds():
    text = corpus.Corpus(TEXT, "unseen", "½ unlike before ½", "")
    added = len(lzma.compress((TEXT + text.test).encode())) - len(lzma.compress(TEXT.encode()))
    assert corpus.xz_bits(text) == added * 8 / 17
    assert added > 0


@pytest.mark.parametrize("first", [0, 1, 4, 5, 9])
def test_segments_go_on_from_any_number(first):
    tokens = np.arange(43)

    def taken(count, first):
        found = itertools.islice(corpus.segments(tokens, 2, 5, first), count)
        return [(part.inputs.tolist(), part.targets.tolist(), bool(part.first)) for part in found]

    assert taken(3, first) == taken(15, 0)[first : first + 3]
    assert [part[2] for part in taken(9, 0)] == [True, *[False] * 3] * 2 + [True]
