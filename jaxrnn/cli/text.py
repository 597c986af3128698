"""`jaxrnn train text` and `jaxrnn sample`: a character model learns a text and continues others.

The model is embedding -> cells -> readout, many-to-many.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from jaxrnn import check
from jaxrnn.cli import corpus, options, run, training
from jaxrnn.interop import expressions
from jaxrnn.types import Carry, Key, Loop, Network, Params

ABOUT = "a character-level language model, many-to-many, by truncated backpropagation in time"
DEFAULTS = {"hidden_size": 256, "batch_size": 16, "steps": 2000, "learning_rate": 0.004}
PROMPT = 60  # characters of the test part, continued after training
LENGTH = 400  # characters of a continuation
TEMPERATURE = 0.8
SCORED_AT_ONCE = 4096  # characters, so that a text of any length fits into memory


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
    prompt = "what to continue; None begins with the first character that the model draws"
    add("--prompt", type=options.some_text, metavar="TEXT", help=prompt)
    add("--length", type=options.whole(1), default=LENGTH, metavar="N", help="characters to add")
    add("--temperature", type=positive, default=TEMPERATURE, metavar="X", help="low is cautious")
    add("--seed", type=options.whole(0), default=0, metavar="N", help="of the draws")


def train(chosen: options.Options) -> None:
    """Learn a text, save the run, and print its score on the test part."""
    text = _corpus(chosen)
    chosen = options.Options(**vars(chosen), vocabulary=text.vocabulary)
    learned = task(chosen, text)
    params = training.train(learned, chosen)
    # The first character of a part is predicted from the last one before it.
    scored = corpus.encode("--text", text.validation[-1] + text.test, text.vocabulary)
    bits = bits_per_character(learned.network, params, scored)
    print(f"bits per character over {len(text.test):,} characters, which selected nothing:")
    for name, value in {"test, by this model": bits, **learned.levels}.items():
        print(f"  {value:.3f}  {name}")
    print("a sample, after a prompt from the test part:")
    asked = {"prompt": text.test[:PROMPT], "length": LENGTH, "temperature": TEMPERATURE}
    sample(options.Options(folder=chosen.out, seed=chosen.seed, **asked))


def task(chosen: options.Options, text: corpus.Corpus | None = None) -> training.Task:
    """Stateful truncated backpropagation through time over the text that the options name."""
    text = text or _corpus(chosen)
    size, length = len(text.vocabulary), chosen.segment_length
    of_cells = chosen.cell, chosen.hidden_size, chosen.embedding_size, size
    model = character_model(*of_cells, chosen.layers, chosen.dropout)
    tokens = corpus.encode("--text", text.training, text.vocabulary)
    validation = corpus.encode("--text", text.training[-1] + text.validation, text.vocabulary)
    streams = min(chosen.batch_size, len(text.validation) // length)

    def loss(
        params: Params, carry: Carry, segment: corpus.Segment, key: Key, loop: Loop
    ) -> training.Loss:
        return segment_loss(model, params, carry, segment, loop, key if model.is_noisy else None)

    def evaluate(params: Params) -> dict[str, float]:
        bits = bits_per_character(model, params, validation, streams)
        return {"loss": bits * np.log(2), "bits_per_character": bits}

    example = next(corpus.segments(validation, streams, length))
    return training.Task(
        network=model,
        init=lambda key: model.init(key, size),
        carry=model.initial_carry((chosen.batch_size,)),
        loss=loss,
        evaluate=evaluate,
        batches=corpus.segments(tokens, chosen.batch_size, length),
        rows=corpus.Segment._make((1, 1, None)),
        items=chosen.batch_size * length,
        unit="char",
        measure="bits_per_character",
        levels={
            "test, by counts of the training text (unigram)": corpus.unigram_bits(text),
            "test, by xz after the training text": corpus.xz_bits(text),
        },
        example={"inputs": example.inputs, "targets": example.targets},
    )


def load(folder: Path) -> tuple[Network, Params, str]:
    """The network of a run, its parameters and its vocabulary; UserError if they do not fit."""
    trained = run.load_options(folder, "text")
    network, params = run.load_network(folder)
    with run.reading(folder / run.PARAMS):
        size = expressions.input_size_of(network, params)
        logits = jax.eval_shape(
            lambda params: jaxrnn.unroll(network, params, jnp.zeros((1, 1), jnp.int32))[1], params
        )
        expected = f"logits of {size} characters"
        check.require(
            logits.shape == (1, 1, size), expressions.expression_of(network), logits, expected
        )
    with run.reading(folder / run.OPTIONS):
        vocabulary = trained.vocabulary
        check.require_type(isinstance(vocabulary, str), "vocabulary", vocabulary, "a string")
        in_order = list(vocabulary) == sorted(set(vocabulary))
        check.require(in_order, "vocabulary", "it out of order", "increasing code points")
        expected = f"{size}, as {run.PARAMS} has"
        got = f"{len(vocabulary)} characters"
        check.require(len(vocabulary) == size, "vocabulary", got, expected)
    return network, params, vocabulary


def example_loss(folder: Path) -> tuple[Callable[..., jax.Array], Params]:
    """The loss of a run on its example, `(params, loop) -> loss`, and its parameters."""
    network, params, vocabulary = load(folder)
    inputs, targets = run.load_example(folder, inputs=np.int32, targets=np.int32)
    with run.reading(folder / run.EXAMPLE):
        shape = check.describe(inputs)
        check.require(inputs.ndim == 2 and inputs.size, "inputs", shape, "(T, B), some of each")
        check.require(targets.shape == inputs.shape, "targets", check.describe(targets), shape)
        tokens = np.concatenate([inputs, targets])
        known = tokens.min() >= 0 and tokens.max() < len(vocabulary)
        got = f"tokens from {tokens.min()} to {tokens.max()}"
        check.require(known, "example", got, f"those of {len(vocabulary)} characters")
    segment = corpus.Segment(inputs, targets, np.bool_(True))
    carry = network.initial_carry(inputs.shape[1:])
    return lambda params, loop: segment_loss(network, params, carry, segment, loop)[0], params


def sample(chosen: options.Options) -> None:
    """Print how a trained model continues a prompt, or what it writes without one."""
    network, params, vocabulary = load(chosen.folder)
    prompt = chosen.prompt or ""
    tokens = corpus.encode("--prompt", prompt, vocabulary)
    drawn = generate(network, params, tokens, chosen.temperature, jax.random.key(chosen.seed))
    print(prompt, end="")
    for token in itertools.islice(drawn, chosen.length):
        print(vocabulary[token], end="", flush=True)
    print()


def character_model(
    cell_name: str,
    hidden_size: int,
    embedding_size: int,
    vocabulary_size: int,
    layers: int = 1,
    dropout_rate: float = 0.0,
) -> Network:
    """The model of V characters: tokens `(T, *batch)` to logits `(T, *batch, V)`.

    Dropout, if any, is where PyTorch's language models have it: after the embedding, between the
    cells, and before the readout.
    """
    parts = options.recurrent_layers(cell_name, hidden_size, layers, dropout_rate)
    noise = [jaxrnn.dropout(dropout_rate)] if dropout_rate else []
    embedding, readout = jaxrnn.embedding(embedding_size), jaxrnn.linear(vocabulary_size)
    return jaxrnn.stacked(embedding, *noise, *parts, readout)


def segment_loss(
    model: Network,
    params: Params,
    carry: Carry,
    segment: corpus.Segment,
    loop: Loop = jaxrnn.bptt,
    key: Key | None = None,
) -> training.Loss:
    """The mean of -log p(target | all before) over a segment, in nats, and the carry after it.

    It begins with the carry of the segment before; where streams begin, with zeros. The key draws
    the noise of a model that has some; without it there is none.
    """
    carry = jax.tree.map(lambda c: jnp.where(segment.first, 0, c), carry)
    carry, logits = jaxrnn.unroll(model, params, segment.inputs, carry=carry, loop=loop, key=key)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, segment.targets).mean()
    return nats, (carry, {"bits_per_character": nats / np.log(2)})


_score = jax.jit(segment_loss, static_argnums=0)


def bits_per_character(
    model: Network, params: Params, tokens: np.ndarray, streams: int = 1
) -> float:
    """The mean bits of all tokens but the first, the carry handed on from the first to the last.

    Several streams, consecutive parts of the tokens, each begun with the zero carry, are run at
    once, which is faster; what does not fill them is left out.
    """
    size = (len(tokens) - 1) // streams
    inputs, targets = (tokens[i:][: streams * size].reshape(streams, -1).T for i in (0, 1))
    carry, nats = model.initial_carry((streams,)), 0.0
    step = max(1, SCORED_AT_ONCE // streams)
    for start in range(0, size, step):
        at = slice(start, start + step)
        segment = corpus.Segment(inputs[at], targets[at], np.bool_(start == 0))
        mean, (carry, _) = _score(model, params, carry, segment)
        nats += float(mean) * len(targets[at])
    return nats / size / np.log(2)


def generate(
    model: Network, params: Params, prompt: np.ndarray, temperature: float, key: jax.Array
) -> Iterator[int]:
    """Without end, the tokens that follow a prompt, a step of the model for each.

    They are drawn from softmax(logits / temperature): below 1 the likely become likelier. After an
    empty prompt the first token is drawn from what the model expects in its zero state.
    """

    def sampled(logits: jax.Array, key: jax.Array) -> jax.Array:
        logits = (logits - jnp.max(logits)) / temperature
        return jax.random.categorical(key, logits).astype(jnp.int32)

    advance = jax.jit(jaxrnn.transforms.autoregressive(model, sampled))
    carry = model.initial_carry()
    if not len(prompt):
        drawn = sampled(model.output(params, carry), jax.random.fold_in(key, 0))
    for count, token in enumerate(prompt):
        (carry, drawn), _ = advance(params, (carry, token), jax.random.fold_in(key, count))
    for count in itertools.count(max(1, len(prompt))):
        yield int(drawn)
        (carry, drawn), _ = advance(params, (carry, drawn), jax.random.fold_in(key, count))


def _corpus(chosen: options.Options) -> corpus.Corpus:
    """The text that the options of a run name."""
    return corpus.split(corpus.read(chosen.text), chosen.batch_size, chosen.segment_length)
