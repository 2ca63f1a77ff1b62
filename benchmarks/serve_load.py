"""How does the server do under load, beside the same model offline and behind another engine?

    python benchmarks/serve_load.py --workdir=runs/multi30k --text=MULTI30K/val.en
    python benchmarks/serve_load.py --workdir=runs/multi30k --text=MULTI30K/val.en --parts=storm,restart

* `load`: so many clients at once, each of which asks again as soon as it has its answer, with one and ten sentences a request:
  requests and sentences a second and latencies, and what share of the offline speed that is. With `--ctranslate2` beside it
  the same model, exported, behind a plain application that calls `translate_batch` for each request.
* `storm`: requests of random sizes, one in twenty of them broken (no JSON, wrong types, too large, unfinished, left alone):
  every answer of a whole one is compared with the offline translation, and the server's memory is watched.
* `restart`: the server is killed and started again: seconds until it is ready, with the compiled programs of before.
"""

import asyncio
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from serve_client import Answer, Connection, load, post, translation_request

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, set_up
from transformer_jax.errors import UserError
from transformer_jax.storage.text_files import iter_lines

ROOT = Path(__file__).parents[1]
PARTS = "load", "storm", "restart"


class Server:
    """serve.py, or the peer, as a process."""

    def __init__(self, command: Sequence[str], port: int = 0):
        begun = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment
        )
        for line in self.process.stderr:
            if "ready" in line:
                self.ready_after = time.perf_counter() - begun
                self.port = port or int(re.search(r"//\S*:(\d+) ", line)[1])
                return
        raise UserError(f"{command[0]} ended with code {self.process.wait()} before it was ready")

    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.stderr.close()
        return self.process.wait(60)


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--text", required=True, help="a file of English lines, the sentences of the requests")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--sentences", type=int, nargs="+", default=[1, 10], help="of a request")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--requests", type=int, default=10_000, help="of the storm")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--ctranslate2", action="store_true", help="measure the peer too")
    flags = parser.parse_args()
    parts = flags.parts.split(",")
    if not set(parts) <= set(PARTS):
        raise UserError(f"--parts={flags.parts} should be some of {', '.join(PARTS)}")
    set_up()
    lines = [line for line in iter_lines(flags.text) if line.strip()]
    offline, expected = translate_offline(flags, lines)
    command = ["serve.py", f"--workdir={flags.workdir}", "--port=0", f"--beam={flags.beam}", "--max_bytes=100000"]
    if "load" in parts:
        print(
            "| system | clients | sentences a request | requests/s | sentences/s | of offline | p50 | p95 | p99 | p99 / p50 |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
        measure_load("ours", Server(command), flags, lines, offline)
        if flags.ctranslate2:
            measure_peer(flags, lines, offline)
    if "storm" in parts:
        storm(Server(command), flags, lines, expected)
    if "restart" in parts:
        restart(command, lines)


def translate_offline(flags: Any, lines: list[str]) -> tuple[float, dict[str, str]]:
    """Sentences a second of `translate`, its programs compiled, and the translations."""
    from transformer_jax.inference.translator import load_translator
    from transformer_jax.runs.checkpoint_name import CheckpointName
    from transformer_jax.runs.run_folder import Run

    translator, _ = load_translator(Run(flags.workdir), CheckpointName.parse("best"), "float32")
    options = dict(beam=flags.beam, split_sentences="always")
    found = translator.translate(lines, **options)
    begun = time.perf_counter()
    translator.translate(lines, **options)
    speed = len(lines) / (time.perf_counter() - begun)
    print(f"offline: {speed:.0f} sentences/s, beam {flags.beam}, {len(lines)} lines\n", flush=True)
    return speed, dict(zip(lines, (each.text for each in found), strict=True))


def measure_load(system: str, server: Server, flags: Any, lines: list[str], offline: float) -> None:
    """A row of the table for each number of clients and of sentences."""
    for sentences, clients in itertools.product(flags.sentences, flags.clients):

        def requests(sentences: int = sentences) -> Iterator[bytes]:
            for start in itertools.count():
                yield translation_request([lines[(start * sentences + i) % len(lines)] for i in range(sentences)])

        asyncio.run(load(server.port, clients, min(2.0, flags.seconds), requests))
        begun = time.perf_counter()
        answers = asyncio.run(load(server.port, clients, flags.seconds, requests))
        seconds = time.perf_counter() - begun
        wrong = [answer for answer in answers if answer.status != 200]
        if wrong:
            raise UserError(f"{len(wrong)} of {len(answers)} answers were errors: {wrong[0].body.decode()}")
        times = sorted(answer.seconds for answer in answers)
        p50, p95, p99 = (1000 * times[int(len(times) * share)] for share in (0.5, 0.95, 0.99))
        rate = len(answers) / seconds
        print(
            f"| {system} | {clients} | {sentences} | {rate:.1f} | {rate * sentences:.0f} | {rate * sentences / offline:.0%} | "
            f"{p50:.0f} ms | {p95:.0f} ms | {p99:.0f} ms | {p99 / p50:.1f} |",
            flush=True,
        )
    server.end()


def measure_peer(flags: Any, lines: list[str], offline: float) -> None:
    from transformer_jax.interop.ctranslate2 import export
    from transformer_jax.runs.run_folder import Run

    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        export(flags.workdir, f"{folder}/model", "best")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        penalty = Run(flags.workdir).config.decode.length_penalty
        arguments = [f"{folder}/model", flags.workdir, port, len(os.sched_getaffinity(0)), flags.beam, penalty]
        server = Server(["benchmarks/serve_peer.py", *map(str, arguments)], port)
        time.sleep(1)
        measure_load("CTranslate2", server, flags, lines, offline)


def storm(server: Server, flags: Any, lines: list[str], expected: dict[str, str]) -> None:
    """Requests of random sizes, some of them broken."""
    draw, wrong, statuses, memory = random.Random(0), [], {}, []
    kinds = broken_requests()
    numbers = iter(range(flags.requests))

    def note(kind: str, status: int) -> None:
        statuses[kind, status] = statuses.get((kind, status), 0) + 1

    async def client() -> None:
        connection = Connection(server.port)
        for number in numbers:
            if number % max(flags.requests // 20, 1) == 0:
                memory.append((number, server.memory()))
            if draw.random() < 0.05:
                kind, request = draw.choice(kinds)
                note(kind, await send_broken(server.port, kind, request))
                continue
            texts = [draw.choice(lines) for _ in range(draw.choice((1, 1, 1, 2, 5, 20)))]
            answer = await connection.ask(translation_request(texts))
            note("whole", answer.status)
            if answer.status == 200 and json.loads(answer.body)["translatedText"] != [expected[text] for text in texts]:
                wrong.append(texts)

    async def all_clients() -> None:
        await asyncio.gather(*(client() for _ in range(32)))

    begun = time.perf_counter()
    asyncio.run(all_clients())
    memory.append((flags.requests, server.memory()))
    print(f"\n{flags.requests} requests in {time.perf_counter() - begun:.0f} s, {len(wrong)} answers differ from offline")
    for (kind, status), count in sorted(statuses.items()):
        print(f"* {kind}: {count} times {status or 'left'}")
    print("memory in MB after requests: " + ", ".join(f"{number}: {size:.0f}" for number, size in memory))
    after = [size for number, size in memory if number >= flags.requests // 10]
    print(f"from the first tenth to the end: {max(after) / after[0] - 1:+.1%}; the server ended with code {server.end()}")


def broken_requests() -> list[tuple[str, bytes]]:
    """Requests that cannot be answered as they are: what is wrong, and their bytes."""
    large = json.dumps({"q": "x" * 200_000, "source": "en", "target": "de"}).encode()
    whole = translation_request(["A dog runs on the beach while a man in a red shirt watches."] * 20)
    return [
        ("no JSON", post("/translate", b"{")),
        ("no UTF-8", post("/translate", b'{"q": "\xff", "source": "en", "target": "de"}')),
        ("wrong types", post("/translate", b'{"q": {"a": 1}, "source": 5, "target": []}')),
        ("unknown language", post("/translate", b'{"q": "a", "source": "en", "target": "xx"}')),
        ("broken XML", post("/v2/translate", b'{"text": ["<a><b></a>"], "target_lang": "DE", "tag_handling": "xml"}')),
        ("too large", post("/translate", large)),
        ("unfinished, left", whole[:-10]),
        ("left alone", whole),
    ]


async def send_broken(port: int, kind: str, request: bytes) -> int:
    """The status of its answer; 0 where nobody waits for it."""
    if "left" not in kind:
        connection = Connection(port)
        answer: Answer = await connection.ask(request)
        connection.close()
        return answer.status
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.close()
    return 0


def restart(command: Sequence[str], lines: list[str]) -> None:
    """Seconds until the server is ready again after it was killed."""
    first = Server(command)
    first.end(signal.SIGKILL)
    second = Server(command)
    answer = asyncio.run(Connection(second.port).ask(translation_request(lines[:1])))
    print(
        f"\nready after {first.ready_after:.1f} s; killed, and ready again after {second.ready_after:.1f} s; the first answer "
        f"took {1000 * answer.seconds:.0f} ms"
    )
    second.end()


if __name__ == "__main__":
    main(run)
