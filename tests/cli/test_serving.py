"""The example of a server: an exported text model, with a carry on the server for each session."""

import http.client
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from jaxrnn.cli import run_folder, text
from jaxrnn.cli.main import main
from jaxrnn.interop import safetensors

SERVER = Path(__file__).resolve().parents[2] / "docs" / "serve_text.py"
VOCABULARY = " abcdefgh½"
# In the place of `python docs/serve_text.py`: any import of jaxrnn is an error.
ALONE = """
import runpy, sys
sys.modules["jaxrnn"] = None
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    network = text.character_model("lstm", 8, 4, len(VOCABULARY))
    params = network.init(jax.random.key(0), len(VOCABULARY))
    safetensors.save(run / run_folder.PARAMS, network, params)
    options = {"task": "text", "vocabulary": VOCABULARY}
    (run / run_folder.OPTIONS).write_text(json.dumps(options), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxtyping.config.jaxtyping_disable", True)
        assert main(["export", str(run), "--out", str(run / "out"), "--batch-size", "1"]) == 0
    command = [sys.executable, "-c", ALONE, str(SERVER), str(run / "out"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        timer = threading.Timer(120, server.kill)
        timer.start()
        try:
            yield int(server.stdout.readline().split()[-1])
        finally:
            timer.cancel()
            server.kill()


def post(port, path, content=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode("utf-8")
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8")
    finally:
        connection.close()


def opened(port):
    status, answer = post(port, "/sessions")
    assert status == 201
    return f"/sessions/{json.loads(answer)['session']}"


def continued(port, session, **request):
    status, answer = post(port, session, request)
    assert status == 200, answer
    return answer


def test_a_session_goes_on_where_it_ended(port):
    whole = continued(port, opened(port), text="ab½", length=20, seed=1)
    assert len(whole) == 20
    assert {*whole} <= {*VOCABULARY}
    session = opened(port)
    first = continued(port, session, text="ab½", length=7, seed=1)
    other = continued(port, opened(port), text="h", length=5)  # and nothing of another's
    assert first + continued(port, session, length=13, seed=1) == whole
    assert continued(port, opened(port), text="ab½", length=20, seed=2) != whole
    assert other == continued(port, opened(port), text="h", length=5)


BAD = [
    ({"text": "xyz"}, "text: got \\['x', 'y', 'z'\\], expected characters"),
    ({}, "text: got none"),
    ({"text": "a", "length": -1}, "length: got -1"),
    ({"text": "a", "length": "9"}, "length: got '9'"),
    ({"text": "a", "temperature": 0}, "temperature: got 0.0"),
    ({"text": "a", "seed": 0.5}, "seed: got 0.5"),
    (b"{", "Expecting"),
    (b"[]", "has no attribute"),
    (b"\xff", "decode"),
]


@pytest.mark.parametrize(("request_", "message"), BAD)
def test_a_bad_request_is_refused_and_the_session_lives(port, request_, message):
    session = opened(port)
    status, answer = post(port, session, request_ or None)
    assert status == 400
    assert message.replace("\\", "") in json.loads(answer)["error"]
    assert len(continued(port, session, text="a", length=2)) == 2
    assert post(port, "/sessions/none")[0] == 404


def test_64_sessions_at_once_are_as_each_alone(port, capsys):
    count, length = 64, 25
    alone = [continued(port, opened(port), text="a", length=length, seed=s) for s in range(4)]
    answers = {}

    def talk(seed):
        session = opened(port)
        first = continued(port, session, text="a", length=10, seed=seed % 4)
        answers[seed] = first + continued(port, session, length=length - 10, seed=seed % 4)

    threads = [threading.Thread(target=talk, args=(seed,)) for seed in range(count)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    seconds = time.perf_counter() - begin
    assert answers == {seed: alone[seed % 4] for seed in range(count)}
    with capsys.disabled():
        print(f"{count} sessions at once: {count * length / seconds:.0f} characters a second")
