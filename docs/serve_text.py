"""Serves an exported text model over HTTP, token by token. Needs JAX, and not jaxrnn.

    jaxrnn train text
    jaxrnn export runs/text
    python docs/serve_text.py exported --port 8000

    curl -X POST localhost:8000/sessions                           {"session": "…"}
    curl -N -X POST localhost:8000/sessions/… -d '{"text": "The ", "length": 200, "seed": 1}'

A session keeps its carry on the server, so that each request goes on where the one before ended.
"""

import argparse
import collections
import json
import pathlib
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import jax.numpy as jnp

MOST_SESSIONS = 1024  # the session that was used least recently is dropped
MOST_BYTES = 2**20  # of a request
MOST_CHARACTERS = 10_000  # of an answer


class Model:
    """An exported text model; one step a token."""

    def __init__(self, folder):
        signature = json.loads((folder / "signature.json").read_text("utf-8"))
        self.vocabulary = signature["vocabulary"]
        self.tokens = {character: token for token, character in enumerate(self.vocabulary)}

        def program(name):
            return jax.export.deserialize(bytearray((folder / name).read_bytes())).call

        advance = program("step.jaxexport")

        def draw(logits, temperature, key, count):
            key = jax.random.fold_in(key, count)
            token = jax.random.categorical(key, (logits - logits.max()) / temperature)
            return token.astype(jnp.int32)

        self.step = jax.jit(advance)
        self.draw = jax.jit(draw)
        self.first_carry = program("start.jaxexport")(jnp.zeros(1, jnp.int32))


class Session:
    """The carry after all text so far, and the logits of the next character."""

    def __init__(self, model):
        self.lock = threading.Lock()
        self.model, self.carry, self.logits, self.count = model, model.first_carry, None, 0

    def read(self, token):
        """Advances by one character."""
        self.carry, logits = self.model.step(self.carry, jnp.full(1, token, jnp.int32))
        self.logits, self.count = logits[0], self.count + 1

    def characters(self, text, length, temperature, seed):
        """Reads a text, and yields the characters that the model draws after it."""
        model, key = self.model, jax.random.key(seed)
        with self.lock:
            for character in text:
                self.read(model.tokens[character])
            for _ in range(length):
                token = int(model.draw(self.logits, temperature, key, self.count))
                yield model.vocabulary[token]
                self.read(token)


class Handler(BaseHTTPRequestHandler):
    """`POST /sessions` opens a session, `POST /sessions/ID` continues its text."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        """Answers a request."""
        sessions, lock = self.server.sessions, self.server.lock
        if self.path == "/sessions":
            name = uuid.uuid4().hex
            with lock:
                sessions[name] = Session(self.server.model)
                while len(sessions) > MOST_SESSIONS:
                    sessions.popitem(last=False)
            return self.answer(201, {"session": name})
        name = self.path.removeprefix("/sessions/")
        with lock:
            session = sessions.get(name)
            if session is not None:
                sessions.move_to_end(name)
        if session is None:
            return self.answer(404, {"error": f"no session {name!r}"})
        try:
            arguments = self.arguments(session)
        except (ValueError, TypeError, AttributeError) as error:
            return self.answer(400, {"error": str(error)})
        self.stream(session.characters(*arguments))

    def arguments(self, session):
        """Returns text, length, temperature and seed of a request; ValueError if they are none."""
        size = int(self.headers.get("Content-Length", 0))
        if not 0 <= size <= MOST_BYTES:
            self.close_connection = True
            raise ValueError(f"got {size} bytes, expected at most {MOST_BYTES}")
        request = json.loads(self.rfile.read(size) or b"{}")
        text, length = request.get("text", ""), request.get("length", 100)
        temperature, seed = float(request.get("temperature", 0.8)), request.get("seed", 0)
        unknown = sorted({*text} - session.model.tokens.keys())
        if unknown:
            raise ValueError(f"text: got {unknown}, expected characters of the training text")
        if session.logits is None and not text:
            raise ValueError("text: got none, expected some in the first request of a session")
        if type(length) is not int or not 0 <= length <= MOST_CHARACTERS:
            raise ValueError(f"length: got {length!r}, expected 0 to {MOST_CHARACTERS}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature: got {temperature}, expected a number above 0")
        if type(seed) is not int or not 0 <= seed < 2**31:
            raise ValueError(f"seed: got {seed!r}, expected 0 to {2**31 - 1}")
        return text, length, temperature, seed

    def answer(self, code, content):
        """Sends a JSON object."""
        body = json.dumps(content).encode("utf-8")
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, characters):
        """Sends each character as soon as it is drawn."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for character in characters:
            chunk = character.encode("utf-8")
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        """Says nothing of each request."""


class Server(ThreadingHTTPServer):
    """A thread for each connection; JAX runs their steps one after another."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address, model):
        super().__init__(address, Handler)
        self.model, self.lock, self.sessions = model, threading.Lock(), collections.OrderedDict()


def main():
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    server = Server(("127.0.0.1", options.port), Model(options.folder))
    print(f"serving on port {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
