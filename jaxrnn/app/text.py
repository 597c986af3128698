"""`jaxrnn train text` and `jaxrnn sample`: a character model learns a text and continues others.

The model is embedding -> cell -> readout, many-to-many.
"""

import itertools
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from jaxrnn.app import corpus, options, run, training
from jaxrnn.types import Array, Carry, Layer, Loop, Network, Params

ABOUT = "a character-level language model, many-to-many, by truncated backpropagation in time"
DEFAULTS = {"hidden_size": 256, "batch_size": 16, "steps": 2000, "learning_rate": 0.004}
PROMPT = 60  # characters of the held-out text, continued after training
LENGTH = 400  # characters of a continuation
TEMPERATURE = 0.8
SCORED_AT_ONCE = 4096  # characters, so that a held-out text of any length fits into memory


# The parameters of a character model, as any tuple of three is.
CharacterParams = namedtuple("CharacterParams", ("embedding", "cell", "readout"))


def add_train_options(parser: options.Parser) -> None:
    """The options of `jaxrnn train text`."""
    add, count = parser.add_argument, options.whole(1)
    add("--text", type=Path, metavar="FILE", help="UTF-8; None is pydoc_data.topics")
    add("--embedding-size", type=count, default=128, metavar="N", help="features of a character")
    add("--segment-length", type=count, default=64, metavar="N", help="steps before a cut")
    training.add_options(parser, "text", **DEFAULTS)


def add_sample_options(parser: options.Parser) -> None:
    """The options of `jaxrnn sample`."""
    add, positive = parser.add_argument, options.positive
    add("folder", type=Path, metavar="FOLDER", help="where `jaxrnn train text` saved")
    add("--prompt", type=options.some_text, required=True, metavar="TEXT", help="what to continue")
    add("--length", type=options.whole(1), default=LENGTH, metavar="N", help="characters to add")
    add("--temperature", type=positive, default=TEMPERATURE, metavar="X", help="low is cautious")
    add("--seed", type=options.whole(0), default=0, metavar="N", help="of the draws")


def train(chosen: options.Options) -> None:
    """Learn a text, save the run, and print what that is worth on the held-out part."""
    text = _corpus(chosen)
    chosen = options.Options(**vars(chosen), vocabulary=text.vocabulary)
    learned = task(chosen, text)
    params = training.train(learned, chosen)

    # The first held-out character is told from the last one before it.
    scored = corpus.encode("--text", text.training[-1] + text.held_out, text.vocabulary)
    bits = bits_per_character(_model(chosen), params, scored)
    print(f"bits per character over {len(text.held_out):,} characters:")
    for name, value in {"held out, by this model": bits, **learned.levels}.items():
        print(f"  {value:.3f}  {name}")
    print("a sample, after a prompt from the held-out text:")
    asked = {"prompt": text.held_out[:PROMPT], "length": LENGTH, "temperature": TEMPERATURE}
    sample(options.Options(folder=chosen.out, seed=chosen.seed, **asked))


def task(chosen: options.Options, text: corpus.Corpus | None = None) -> training.Task:
    """Stateful truncated backpropagation through time over the text that the options name."""
    model, text = _model(chosen), text or _corpus(chosen)
    tokens = corpus.encode("--text", text.training, text.vocabulary)
    return training.Task(
        init=lambda key: CharacterParams(*model.init(key, len(text.vocabulary))),
        carry=model.carry((chosen.batch_size,)),
        loss=lambda params, carry, part, _, loop: segment_loss(model, params, carry, part, loop),
        batches=corpus.segments(tokens, chosen.batch_size, chosen.segment_length),
        rows=corpus.Segment._make((1, 1, None)),
        items=chosen.batch_size * chosen.segment_length,
        unit="char",
        measure="bits_per_character",
        levels={
            "held out, by counts of the training text (unigram)": corpus.unigram_bits(text),
            "held out, by xz after the training text": corpus.xz_bits(text),
        },
    )


def sample(chosen: options.Options) -> None:
    """Print a prompt and how a trained model continues it."""
    trained = run.load_options(chosen.folder, "text")
    with run.reading(chosen.folder / run.OPTIONS):
        model, vocabulary = _model(trained), trained.vocabulary
        if list(vocabulary) != sorted(set(vocabulary)):
            raise ValueError("vocabulary: got it out of order, expected increasing code points")
        key = jax.random.key(chosen.seed)
        like = jax.eval_shape(lambda key: CharacterParams(*model.init(key, len(vocabulary))), key)
    params = run.load_params(chosen.folder, like=like)
    tokens = corpus.encode("--prompt", chosen.prompt, vocabulary)
    drawn = generate(model, params, tokens, chosen.temperature, key)
    print(chosen.prompt, end="")
    for token in itertools.islice(drawn, chosen.length):
        print(vocabulary[token], end="", flush=True)
    print()


def character_model(
    cell_name: str, hidden_size: int, embedding_size: int, vocabulary_size: int
) -> Network:
    """The model of V characters: tokens `(T, *batch, 1)` to logits `(T, *batch, V)`."""
    embedding = jaxrnn.embedding(embedding_size)

    def embedded(params: Params, tokens: Array) -> jax.Array:
        return embedding.apply(params, tokens[..., 0].astype(jnp.int32))

    cell, readout = options.cell_named(cell_name, hidden_size), jaxrnn.readout(vocabulary_size)
    return jaxrnn.stacked(Layer(embedding.init, embedded), cell, readout)


def segment_loss(
    model: Network, params: Params, carry: Carry, segment: corpus.Segment, loop: Loop = jaxrnn.bptt
) -> training.Loss:
    """The mean of -log p(target | all before) over a segment, in nats, and the carry after it.

    It begins with the carry of the segment before; where streams begin, with zeros.
    """
    carry = jax.tree.map(lambda c: jnp.where(segment.first, 0, c), carry)
    carry, logits = jaxrnn.unroll(model, params, segment.inputs[..., None], carry, loop=loop)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, segment.targets).mean()
    return nats, (carry, {"bits_per_character": nats / np.log(2)})


def bits_per_character(model: Network, params: Params, tokens: np.ndarray) -> float:
    """The mean bits of all tokens but the first, as one stream, its carry handed on to the end."""
    loss = jax.jit(segment_loss, static_argnums=0)
    inputs, targets = tokens[:-1], tokens[1:]
    carry, nats = model.carry(), 0.0
    for start in range(0, len(targets), SCORED_AT_ONCE):
        at = slice(start, start + SCORED_AT_ONCE)
        segment = corpus.Segment(inputs[at], targets[at], np.bool_(start == 0))
        mean, (carry, _) = loss(model, params, carry, segment)
        nats += float(mean) * len(targets[at])
    return nats / len(targets) / np.log(2)


def generate(
    model: Network, params: Params, prompt: np.ndarray, temperature: float, key: jax.Array
) -> Iterator[int]:
    """Without end, the tokens that follow a prompt of at least one, a step of the model for each.

    They are drawn from softmax(logits / temperature): below 1 the likely become likelier.
    """

    def sampled(logits: jax.Array, key: jax.Array) -> jax.Array:
        logits = (logits - jnp.max(logits)) / temperature
        return jax.random.categorical(key, logits)[None].astype(jnp.int32)

    advance = jax.jit(jaxrnn.fed_back(model, sampled))
    carry = model.carry()
    for count, token in enumerate(prompt[:, None]):
        (carry, drawn), _ = advance(params, (carry, token), jax.random.fold_in(key, count))
    for count in itertools.count(len(prompt)):
        yield int(drawn[0])
        (carry, drawn), _ = advance(params, (carry, drawn), jax.random.fold_in(key, count))


def _model(chosen: options.Options) -> Network:
    """The model that the options of a run name."""
    sizes = chosen.hidden_size, chosen.embedding_size, len(chosen.vocabulary)
    return character_model(chosen.cell, *sizes)


def _corpus(chosen: options.Options) -> corpus.Corpus:
    """The text that the options of a run name."""
    return corpus.split(corpus.read(chosen.text), chosen.batch_size, chosen.segment_length)
