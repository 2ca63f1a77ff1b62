"""The mark beside our server, which `serve_load.py` starts: CTranslate2 behind a plain ASGI application, which calls
`translate_batch` for each request. Its arguments: the folder that `export` made, the run, port, threads, beam, length penalty.
"""

import asyncio
import json
import sys
from typing import Any

import ctranslate2
import uvicorn

from transformer_jax.runs.run_folder import Run


def run(exported: str, workdir: str, port: str, threads: str, beam: str, length_penalty: str) -> None:
    # Requests in parallel, one thread each: the faster of the two ways on a machine of few cores.
    model = ctranslate2.Translator(exported, compute_type="float32", inter_threads=int(threads), intra_threads=1)
    config, tokenizer = Run(workdir).config.decode, Run(workdir).tokenizer()
    ids = {piece: number for number, piece in enumerate(tokenizer.pieces(range(tokenizer.vocab_size)))}

    def translate(lines: list[str]) -> list[str]:
        rows = tokenizer.encode_source(lines, add_eos=False)
        found = model.translate_batch(
            [tokenizer.source_pieces(row) for row in rows],
            beam_size=int(beam),
            length_penalty=float(length_penalty),
            max_decoding_length=int(config.max_length_ratio * (max(map(len, rows)) + 1)) + config.max_length_extra,
        )
        return tokenizer.decode([[ids[piece] for piece in each.hypotheses[0]] for each in found])

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        texts = await asyncio.to_thread(translate, json.loads(body)["q"])
        answer = json.dumps({"translatedText": texts}, ensure_ascii=False).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    print("ready", file=sys.stderr, flush=True)
    uvicorn.run(app, port=int(port), log_level="error", access_log=False, lifespan="off")


if __name__ == "__main__":
    run(*sys.argv[1:])
