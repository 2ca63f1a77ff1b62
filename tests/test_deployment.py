"""The examples for containers, Slurm and Kubernetes, as far as a machine without them can tell; the image where docker runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import tiny_config, write_config

from transformer_jax.cli.commands.train import make_parser
from transformer_jax.cli.config_files import load_config

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
DOCKERFILE = EXAMPLES / "docker" / "Dockerfile"
SBATCH = EXAMPLES / "slurm" / "train.sbatch"
KUBERNETES = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))


# Docker


def test_the_image_copies_what_there_is_and_installs_extras_that_there_are():
    text = DOCKERFILE.read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()]
    assert {"transformer_jax", "setup.py", "setup.cfg", "pyproject.toml", "README.md"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    extras = {extra for found in re.findall(r"EXTRAS=([\w,]+)", text) for extra in found.split(",")}
    assert {"cuda", "tpu", "tfds"} <= extras
    section = (ROOT / "setup.cfg").read_text().partition("[options.extras_require]")[2]
    assert all(re.search(rf"^{extra} =", section, re.MULTILINE) for extra in extras)


def docker_runs() -> bool:
    return bool(shutil.which("docker")) and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not docker_runs(), reason="needs docker, and its daemon running")
def test_the_image_is_built_and_prints_a_config():
    subprocess.run(["docker", "build", "--file", DOCKERFILE, "--tag", "transformer_jax:test", ROOT], check=True, timeout=1200)
    command = ["docker", "run", "--rm", "--user", "4321", "transformer_jax:test", "train", "--config=demo", "--print_config"]
    assert '"demo:train"' in subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


# Slurm


def sbatch(folder: Path, srun: str, *flags: str, **variables: str) -> subprocess.CompletedProcess:
    """The script as Slurm runs it, with Bash for its srun and a scontrol that writes down its arguments."""
    for name, text in (("srun", srun), ("scontrol", f'echo "$@" >> {folder}/scontrol.txt')):
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "RUN": str(folder / "run")} | variables
    return subprocess.run(["bash", SBATCH, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(0, 0, False), (2, 0, False), (1, 0, False), (75, 9, True), (137, 0, True), (137, 5, False)],
)
def test_a_job_is_put_into_the_queue_again_where_its_training_can_go_on(tmp_path, code, restarts, again):
    done = sbatch(tmp_path, f'echo "$@"; exit {code}', "--config.train.steps=7", SLURM_RESTART_COUNT=str(restarts))
    assert done.returncode == code and not done.stderr
    script, *flags = shlex.split(done.stdout)[1:]
    assert script == "train.py" and flags[1] == f"--workdir={tmp_path}/run" and flags[-1] == "--config.train.steps=7"
    assert make_parser().parse_with_overrides(flags)
    told = tmp_path / "scontrol.txt"
    assert (told.read_text() == "requeue 77\n") if again else not told.exists()


@pytest.mark.processes
def test_two_tasks_of_a_job_train_one_model(tmp_path):
    config = tiny_config(tmp_path)
    write_config(tmp_path / "config.py", config)
    srun = """export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!)
done
for task in "${tasks[@]}"; do wait $task || exit $?; done"""
    variables = {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = sbatch(tmp_path, srun, f"--config={tmp_path}/config.py", **variables)
    assert done.returncode == 0, done.stderr
    assert "waiting for 1 other process on localhost (Slurm: SLURM_STEP_NUM_TASKS=2)" in done.stderr
    assert "2 CPU devices in 2 processes" in done.stderr and "trained to step 6" in done.stderr
    assert not (tmp_path / "scontrol.txt").exists()


# Kubernetes


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.stem)
def test_the_pods_of_a_job_set_are_the_processes_of_one_training(file):
    """What its schema does not know: names and numbers that must agree with each other, and with this program's flags."""
    jobs = yaml.safe_load(file.read_text(encoding="utf-8"))
    (group,) = jobs["spec"]["replicatedJobs"]
    job, pod = group["template"]["spec"], group["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert job["parallelism"] == job["completions"] > 1 and job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"] and 75 not in rule["onExitCodes"]["values"]
    assert {mount["name"] for mount in container.get("volumeMounts", [])} == {
        volume["name"] for volume in pod.get("volumes", [])
    }
    words = shlex.split(container["args"][0])[2:] if "command" in container else container["args"]
    assert words[0] == "train"
    words = [word.replace("$JOB_COMPLETION_INDEX", "0") for word in words[1:]]
    flags, overrides = make_parser().parse_with_overrides(words)
    if flags.coordinator:
        name = f"{jobs['metadata']['name']}-{group['name']}-0-0.{jobs['metadata']['name']}"
        assert flags.coordinator == f"{name}:{container['ports'][0]['containerPort']}"
        assert flags.processes == job["parallelism"] * group["replicas"]
    (devices,) = container["resources"]["limits"].values()
    config = load_config(flags.config, overrides)
    assert config.batch.row_multiple % (devices * job["parallelism"] * group["replicas"]) == 0
