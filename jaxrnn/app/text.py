"""`jaxrnn train text` and `jaxrnn sample`: a character model learns a text and continues others."""

import functools
import itertools
import math
from pathlib import Path

import jax

from jaxrnn.app import characters, corpus, run, training
from jaxrnn.app.corpus import Corpus, Segment
from jaxrnn.app.options import Parser, positive, some_text, whole
from jaxrnn.types import Carry, Key, Loop, Network, Params

ABOUT = "a character-level language model, many-to-many, by truncated backpropagation in time"
PROMPT = 60  # characters of the held-out text, continued after training
LENGTH = 400  # characters of a continuation
TEMPERATURE = 0.8


def add_train_options(parser: Parser) -> None:
    """The options of `jaxrnn train text`."""
    add = parser.add_argument
    add("--text", type=Path, metavar="FILE", help="UTF-8; None is pydoc_data.topics")
    add("--embedding-size", type=whole(1), default=128, metavar="N", help="features of a character")
    add("--segment-length", type=whole(1), default=64, metavar="N", help="steps before a cut")
    training.add_options(
        parser, "text", hidden_size=256, batch_size=16, steps=2000, learning_rate=0.004
    )


def add_sample_options(parser: Parser) -> None:
    """The options of `jaxrnn sample`."""
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="where `jaxrnn train text` saved")
    add("--prompt", type=some_text, required=True, metavar="TEXT", help="what to continue")
    add("--length", type=whole(1), default=LENGTH, metavar="N", help="characters to add")
    add("--temperature", type=positive, default=TEMPERATURE, metavar="X", help="low is cautious")
    add("--seed", type=whole(0), default=0, metavar="N", help="of the draws")


def train(options: run.Options) -> None:
    """Learn a text, save the run, and print what that is worth on the held-out part."""
    text = _corpus(options)
    options = run.Options(**vars(options), vocabulary=text.vocabulary)
    learned = task(options, text)
    params = training.train(learned, options)

    # The first held-out character is told from the last one before it.
    scored = corpus.encode("--text", text.training[-1] + text.held_out, text.vocabulary)
    bits = characters.bits_per_character(_model(options), params, scored)
    print(f"bits per character over {len(text.held_out):,} characters:")
    for name, value in {"held out, by this model": bits, **learned.levels}.items():
        print(f"  {value:.3f}  {name}")
    print("a sample, after a prompt from the held-out text:")
    asked = {"prompt": text.held_out[:PROMPT], "length": LENGTH, "temperature": TEMPERATURE}
    sample(run.Options(folder=options.out, seed=options.seed, **asked))


def task(options: run.Options, text: Corpus | None = None) -> training.Task:
    """Stateful truncated backpropagation through time over the text that the options name."""
    model, text = _model(options), text or _corpus(options)

    def loss(params: Params, carry: Carry, segment: Segment, key: Key, loop: Loop) -> training.Loss:
        nats, carry = characters.segment_loss(model, params, carry, segment, loop)
        return nats, (carry, {"bits_per_character": nats / math.log(2)})

    tokens = corpus.encode("--text", text.training, text.vocabulary)
    return training.Task(
        init=functools.partial(_init, options),
        carry=model.carry((options.batch_size,)),
        loss=loss,
        batches=corpus.segments(tokens, options.batch_size, options.segment_length),
        rows=Segment._make((1, 1, None)),
        items=options.batch_size * options.segment_length,
        unit="char",
        measure="bits_per_character",
        levels={
            "held out, by counts of the training text (unigram)": corpus.unigram_bits(text),
            "held out, by xz after the training text": corpus.xz_bits(text),
        },
    )


def sample(options: run.Options) -> None:
    """Print a prompt and how a trained model continues it."""
    folder = options.folder
    trained = run.load_options(folder, "text")
    with run.reading(folder / run.OPTIONS):
        model, vocabulary = _model(trained), trained.vocabulary
        if list(vocabulary) != sorted(set(vocabulary)):
            raise ValueError("vocabulary: got it out of order, expected increasing code points")
    key = jax.random.key(options.seed)
    params = run.load_params(folder, like=jax.eval_shape(functools.partial(_init, trained), key))
    tokens = corpus.encode("--prompt", options.prompt, vocabulary)
    drawn = characters.generate(model, params, tokens, options.temperature, key)
    print(options.prompt, end="")
    for token in itertools.islice(drawn, options.length):
        print(vocabulary[token], end="", flush=True)
    print()


def _model(options: run.Options) -> Network:
    """The model that the options of a run name."""
    return characters.character_model(
        options.cell, options.hidden_size, options.embedding_size, len(options.vocabulary)
    )


def _init(options: run.Options, key: jax.Array) -> characters.CharacterParams:
    """The parameters that training begins with."""
    return characters.CharacterParams(*_model(options).init(key, len(options.vocabulary)))


def _corpus(options: run.Options) -> Corpus:
    """The text that the options of a run name."""
    return corpus.split(corpus.read(options.text), options.batch_size, options.segment_length)
