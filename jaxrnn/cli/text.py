"""`jaxrnn train text` and `jaxrnn sample`: a character-level language model.

The model is embedding -> cells -> linear, many-to-many.
"""

import functools
import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from jaxrnn import check
from jaxrnn.cli import corpus, learners, options, run_folder, training
from jaxrnn.cli.events import NO_EVENTS, Events
from jaxrnn.interop import expressions
from jaxrnn.training import Trainer
from jaxrnn.types import Carry, Key, Loop, Network, Params

ABOUT = "a character-level language model, many-to-many, by truncated backpropagation in time"
DEFAULTS = {"hidden_size": 256, "batch_size": 16, "steps": 2000, "learning_rate": 0.004}
PROMPT_LENGTH = 60  # characters of the test part, as a prompt after training
SAMPLE_LENGTH = 400  # characters of a sample
TEMPERATURE = 0.8
SCORING_CHUNK = 4096  # characters at once, so that a text of any length fits into memory


def add_train_options(parser: options.Parser) -> None:
    """Adds the options of `jaxrnn train text`."""
    add = parser.add_argument
    count = options.whole_number(1)
    add("--text", type=Path, metavar="FILE", help="UTF-8; None for Python's documentation")
    add("--embedding-size", type=count, default=128, metavar="N", help="features of a character")
    add(
        "--segment-length",
        type=count,
        default=64,
        metavar="N",
        help="steps that a gradient reaches back",
    )
    add(
        "--learner",
        type=learners.learner_name,
        metavar="NAME",
        help="an online algorithm, whose gradient reaches through all past segments, instead of "
        f"backpropagation: {learners.NAMES}; None for backpropagation",
    )
    training.add_options(parser, "text", **DEFAULTS)


def add_sample_options(parser: options.Parser) -> None:
    """Adds the options of `jaxrnn sample`."""
    add = parser.add_argument
    positive = options.positive
    add("folder", type=Path, metavar="FOLDER", help="where `jaxrnn train text` saved")
    prompt = "text to continue; None starts with a character that the model draws"
    add("--prompt", type=options.some_text, metavar="TEXT", help=prompt)
    add(
        "--length",
        type=options.whole_number(1),
        default=SAMPLE_LENGTH,
        metavar="N",
        help="characters to add",
    )
    add(
        "--temperature",
        type=positive,
        default=TEMPERATURE,
        metavar="X",
        help="low values give likely characters",
    )
    add("--seed", type=options.whole_number(0), default=0, metavar="N", help="seed of the draws")


def train(args: options.Options, events: Events = NO_EVENTS) -> None:
    """Trains on a text, saves the run, and prints its score on the test part and a sample."""
    text = _split_text(args)
    args = options.Options(**vars(args), vocabulary=text.vocabulary)
    text_task = task(args, text)
    params = training.train(text_task, args, events)
    # The first character of a part is predicted from the last one before it.
    tokens = corpus.encode("--text", text.validation[-1] + text.test, text.vocabulary)
    bits = bits_per_character(text_task.network, params, tokens)
    print(f"bits per character over {len(text.test):,} characters that training has not seen:")
    for name, value in {"test, by this model": bits, **text_task.levels}.items():
        print(f"  {value:.3f}  {name}")
    events.write("test", bits_per_character=bits, characters=len(text.test))
    print("a sample, after a prompt from the test part:")
    sample(
        options.Options(
            folder=args.out,
            seed=args.seed,
            prompt=text.test[:PROMPT_LENGTH],
            length=SAMPLE_LENGTH,
            temperature=TEMPERATURE,
        )
    )


def task(args: options.Options, text: corpus.Corpus | None = None) -> training.Task:
    """Returns the task of `jaxrnn train text`: stateful truncated BPTT over a text.

    Args:
        args: the options of the command.
        text: defaults to the text that the options name.
    """
    text = text or _split_text(args)
    size = len(text.vocabulary)
    length = args.segment_length
    model = character_model(
        args.cell, args.hidden_size, args.embedding_size, size, args.layers, args.dropout
    )
    tokens = corpus.encode("--text", text.training, text.vocabulary)
    validation = corpus.encode("--text", text.training[-1] + text.validation, text.vocabulary)
    streams = min(args.batch_size, len(text.validation) // length)

    def loss(
        params: Params, carry: Carry, segment: corpus.Segment, key: Key, loop: Loop
    ) -> training.Loss:
        noise_key = key if model.is_noisy else None
        return segment_loss(model, params, carry, segment, loop, noise_key)

    def evaluate(params: Params) -> dict[str, float]:
        bits = bits_per_character(model, params, validation, streams)
        return {"loss": bits * np.log(2), "bits_per_character": bits}

    example = next(corpus.segments(validation, streams, length))
    segment = jax.ShapeDtypeStruct((length, args.batch_size), jnp.int32)
    return training.Task(
        network=model,
        init=lambda key: model.init(key, size),
        carry=model.initial_carry((args.batch_size,)),
        loss=loss,
        evaluate=evaluate,
        batches=functools.partial(corpus.segments, tokens, args.batch_size, length),
        rows=corpus.Segment._make((1, 1, None)),
        items=args.batch_size * length,
        unit="char",
        measure="bits_per_character",
        levels={
            "test, by the counts of single characters (unigram)": corpus.unigram_bits(text),
            "test, by xz, which copies what the training text repeats": corpus.xz_bits(text),
        },
        example={"inputs": example.inputs, "targets": example.targets},
        data=_checksum(text),
        make_trainer=_make_online_trainer(args, model, segment),
    )


def _make_online_trainer(
    args: options.Options, model: Network, tokens: jax.ShapeDtypeStruct
) -> Callable[[optax.GradientTransformation], Trainer] | None:
    """Returns what makes the trainer of `--learner`, from an optimizer; None without the option."""
    if args.learner is None:
        return None
    error = options.UserError
    got = f"{args.learner} and --loop {args.loop}"
    check.require(args.loop == "bptt", "--learner", got, "one of them", error)
    got = f"{args.learner} and --dropout {args.dropout}"
    check.require(not args.dropout, "--learner", got, "no dropout", error)
    learner = learners.learner_named(args.learner, learners.TokenLoss(model))
    return lambda optimizer: learners.trainer(learner, optimizer, tokens)


def load(folder: Path) -> tuple[Network, Params, str]:
    """Returns the network, parameters and vocabulary of a run; UserError if they do not fit."""
    args = run_folder.load_options(folder, "text")
    network, params = run_folder.load_network(folder)
    with run_folder.reading(folder / run_folder.PARAMS):
        size = expressions.input_size_of(network, params)
        tokens = jnp.zeros((1, 1), jnp.int32)
        logits = jax.eval_shape(lambda params: jaxrnn.unroll(network, params, tokens)[1], params)
        name = repr(network)
        expected = f"logits of {size} characters"
        check.require(logits.shape == (1, 1, size), name, logits, expected)
    with run_folder.reading(folder / run_folder.OPTIONS):
        vocabulary = args.vocabulary
        check.require_type(isinstance(vocabulary, str), "vocabulary", vocabulary, "a string")
        is_sorted = list(vocabulary) == sorted(set(vocabulary))
        check.require(is_sorted, "vocabulary", "it out of order", "increasing code points")
        got = f"{len(vocabulary)} characters"
        expected = f"{size}, as {run_folder.PARAMS} has"
        check.require(len(vocabulary) == size, "vocabulary", got, expected)
    return network, params, vocabulary


def example_loss(folder: Path) -> tuple[Callable[..., jax.Array], Params]:
    """Returns the loss of a run on its example, `(params, loop) -> loss`, and its parameters."""
    network, params, vocabulary = load(folder)
    inputs, targets = run_folder.load_example(folder, inputs=np.int32, targets=np.int32)
    with run_folder.reading(folder / run_folder.EXAMPLE):
        shape = check.describe(inputs)
        check.require(inputs.ndim == 2 and inputs.size, "inputs", shape, "(T, B), some of each")
        check.require(targets.shape == inputs.shape, "targets", check.describe(targets), shape)
        tokens = np.concatenate([inputs, targets])
        is_within = tokens.min() >= 0 and tokens.max() < len(vocabulary)
        got = f"tokens from {tokens.min()} to {tokens.max()}"
        check.require(is_within, "example", got, f"those of {len(vocabulary)} characters")
    segment = corpus.Segment(inputs, targets, np.bool_(True))
    carry = network.initial_carry(inputs.shape[1:])
    return lambda params, loop: segment_loss(network, params, carry, segment, loop)[0], params


def sample(args: options.Options) -> None:
    """Prints a prompt, if any, and the characters that a trained model draws after it."""
    network, params, vocabulary = load(args.folder)
    prompt = args.prompt or ""
    tokens = corpus.encode("--prompt", prompt, vocabulary)
    generated = generate(network, params, tokens, args.temperature, jax.random.key(args.seed))
    print(prompt, end="")
    for token in itertools.islice(generated, args.length):
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
    """Returns the network from tokens `(T, *batch)` to logits `(T, *batch, V)` of V characters.

    Dropout, if any, is in the same places as in PyTorch's language models: after the embedding,
    between the cells, and before the linear layer.
    """
    parts = options.recurrent_layers(cell_name, hidden_size, layers, dropout_rate)
    if dropout_rate:
        parts.insert(0, jaxrnn.dropout(dropout_rate))
    embedding = jaxrnn.embedding(embedding_size)
    linear = jaxrnn.linear(vocabulary_size)
    return jaxrnn.stacked(embedding, *parts, linear)


def segment_loss(
    model: Network,
    params: Params,
    carry: Carry,
    segment: corpus.Segment,
    loop: Loop = jaxrnn.bptt,
    key: Key | None = None,
) -> training.Loss:
    """Returns the mean of -log p(target | all before) in nats over a segment, and its last carry.

    The segment starts from `carry`, or from zeros if the streams begin with it. The key draws the
    noise of a noisy model; without a key there is no noise.
    """
    carry = jax.tree.map(lambda c: jnp.where(segment.first, 0, c), carry)
    carry, logits = jaxrnn.unroll(model, params, segment.inputs, carry=carry, loop=loop, key=key)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, segment.targets).mean()
    return nats, (carry, {"bits_per_character": nats / np.log(2)})


_score = jax.jit(segment_loss, static_argnums=0)


def bits_per_character(
    model: Network, params: Params, tokens: np.ndarray, streams: int = 1
) -> float:
    """Returns the mean bits of all tokens after the first, given all tokens before them.

    Several streams run at once, which is faster. They are consecutive parts of the tokens, each
    from the zero carry. Tokens that do not fill the streams are left out.
    """
    length = (len(tokens) - 1) // streams
    inputs = tokens[: streams * length].reshape(streams, -1).T
    targets = tokens[1 : 1 + streams * length].reshape(streams, -1).T
    carry = model.initial_carry((streams,))
    nats = 0.0
    chunk = max(1, SCORING_CHUNK // streams)
    # All chunks but the last have one shape, so `_score` compiles twice at most.
    for start in range(0, length, chunk):
        steps = slice(start, start + chunk)
        segment = corpus.Segment(inputs[steps], targets[steps], np.bool_(start == 0))
        mean, (carry, _) = _score(model, params, carry, segment)
        nats += float(mean) * len(targets[steps])
    return nats / length / np.log(2)


def generate(
    model: Network, params: Params, prompt: np.ndarray, temperature: float, key: jax.Array
) -> Iterator[int]:
    """Yields without end the tokens after a prompt, one step of the model for each.

    They are drawn from softmax(logits / temperature). A temperature below 1 makes likely tokens
    more likely. After an empty prompt, the first token is drawn from the output of the zero carry.
    """

    def draw(logits: jax.Array, key: jax.Array) -> jax.Array:
        # The largest becomes 0, so that a low temperature does not overflow.
        logits = (logits - jnp.max(logits)) / temperature
        return jax.random.categorical(key, logits).astype(jnp.int32)

    advance = jax.jit(jaxrnn.transforms.autoregressive(model, draw))
    carry = model.initial_carry()
    if not len(prompt):
        drawn = draw(model.output(params, carry), jax.random.fold_in(key, 0))
    for count, token in enumerate(prompt):
        (carry, drawn), _ = advance(params, (carry, token), jax.random.fold_in(key, count))
    for count in itertools.count(max(1, len(prompt))):
        yield int(drawn)
        (carry, drawn), _ = advance(params, (carry, drawn), jax.random.fold_in(key, count))


def _checksum(text: corpus.Corpus) -> str:
    parts = (text.training, text.validation, text.test)
    return str(zlib.crc32("".join(parts).encode("utf-8", "surrogatepass")))


def _split_text(args: options.Options) -> corpus.Corpus:
    """Returns the three parts of the text that the options name."""
    return corpus.split(corpus.read(args.text), args.batch_size, args.segment_length)
