#!/usr/bin/env bash
# What does a GPU or a TPU do with transformer_jax? In ten minutes on one machine, from a Python with or without jax:
#
#     benchmarks/accelerator.sh OUTPUT [MULTI30K]
#
# OUTPUT/accelerator.md is the page, OUTPUT/accelerator.json the same for programs; both are written again after each part. The
# parts come in the order of what they tell, each has a time limit, and one that cannot run says why. MULTI30K, the folder with
# train.en, train.de, val.en and val.de, is the text of the parts that need one; without it that is the built-in corpus, and the
# last part is left out. PyTorch and CTranslate2 are compared with where they are installed. In the environment:
#
#     PYTHON=python3    the interpreter, 3.11 or newer. What the project needs and it has not is installed into OUTPUT/venv
#     EXTRA=cuda        how jax is installed (cuda, cuda12 or tpu); by itself the script looks at what is there
#     MINUTES=10        the limit of all parts together; those of the parts are in proportion
#     PARTS="..."       some of the parts, by name
#     TINY=1            a size for trying the script where there is no accelerator: minutes of two CPU cores
set -u

[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" && output=$(cd "$1" && pwd) || exit 2
multi30k=${2:-}
if [ -n "$multi30k" ]; then
  multi30k=$(cd "$multi30k" && pwd) || exit 2
  [ -f "$multi30k/train.en" ] || { echo "error: $multi30k: there is no train.en in it; name the folder of Multi30k's text" >&2; exit 2; }
fi
minutes=${MINUTES:-10}
case $minutes in '' | 0* | *[!0-9]*) echo "error: MINUTES=$minutes should be a whole number from 1 on" >&2; exit 2 ;; esac
command -v timeout >/dev/null || { echo "error: there is no command timeout (of GNU coreutils)" >&2; exit 2; }
python=${PYTHON:-python3}
parts=" ${PARTS:-devices equality tests demo speed packed bucketed decoding deterministic captions} "
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
cd "$root" || exit 2
rm -rf "$output"/{parts.tsv,demo,minutes,text} "$output"/accelerator.{md,json}

words=2000  # pieces of the text's tokenizer
[ -z "$multi30k" ] || words=8000
if [ -n "${TINY:-}" ]; then
  models=tiny data=random:8x16 pieces=400 laps=2 steps=2 copies=1
  small="--config.model.num_layers=1 --config.model.width=32 --config.model.feed_forward_width=64"
  tokens=512 shapes=1 updates=4 words=400 share=:0.02
  recipe="--config.train.steps=4 --config.train.evaluate_every=4 --config.train.checkpoint_every=4 --config.decode.beam=1
    --config.decode.max_length_ratio=0.2 --config.batch.shapes=1 $small"
  sentences="--sentences=4 --alone=2 --repeats=1" tests=tests/test_decoding.py
else
  models="base big tiny" data=random:800x32 pieces=32000 laps=3 steps=20 copies=8
  small="" tokens=25600 shapes=4 updates=60 share="" recipe="" sentences="--alone=20"
  tests="tests/test_models.py tests/test_decoding.py tests/test_training.py tests/test_translator.py tests/test_run.py"
fi
text=$output/text/train

# record NAME CODE SECONDS LIMIT WORDS...: one line for the page (CODE is - where nothing was run, and WORDS say why), and the page.
record() {
  printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "${*:5}" >>"$output/parts.tsv"
  "$python" benchmarks/accelerator.py page --output="$output" || true
}

# A part has a process group of its own, which Ctrl-C does not reach.
running=""
trap '[ -z "$running" ] || kill $running; exit 130' INT TERM

# part NAME SECONDS COMMAND...: what it prints goes to OUTPUT/NAME.out, its log to OUTPUT/NAME.log.
part() {
  local name=$1 limit=$(($2 * minutes / 10)) left=$((minutes * 60 - SECONDS)) started=$SECONDS code
  case $parts in *" $name "*) ;; *) return 0 ;; esac
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 5 ]; then
    record "$name" - 0 0 "no time was left of MINUTES=$minutes"
    return 0
  fi
  echo "$name: $limit s at most" >&2
  timeout --kill-after=10 "$limit" "${@:3}" >"$output/$name.out" 2>"$output/$name.log" </dev/null &
  running=$!
  wait $running
  code=$?
  running=""
  record "$name" "$code" $((SECONDS - started)) "$limit" "${@:3}"
}

# without NAME WORDS...: why a part is not run.
without() {
  case $parts in *" $1 "*) record "$1" - 0 0 "${*:2}" ;; esac
}

# extra: how the project is installed, so that the jax which is there stays, or one for what is there is fetched.
extra() {
  local packages driver capability
  packages=$("$python" -m pip list --format=freeze 2>/dev/null)
  case $packages in
    *jax-cuda13-plugin*) echo cuda ;;
    *jax-cuda12-plugin*) echo cuda12 ;;
    *libtpu*) echo tpu ;;
    *)
      driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d. -f1)
      if [ -n "$driver" ]; then
        # CUDA 13 wants a new driver, and has no GPUs before compute capability 7.5.
        capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
        [ "$driver" -ge 580 ] && [ "${capability:-75}" -ge 75 ] && echo cuda || echo cuda12
      elif ls /dev/accel[0-9]* /dev/vfio/[0-9]* >/dev/null 2>&1; then
        echo tpu
      fi
      ;;
  esac
}

if ! "$python" -c 'import transformer_jax.training.loop' 2>"$output/install.log"; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: PYTHON=$python: Python 3.11 or newer is needed" >&2; exit 2; }
  extras=$(echo "${EXTRA-$(extra)} ctranslate2" | xargs | tr ' ' ,)
  echo "installing .[$extras] and pytest into $output/venv" >&2
  { "$python" -m venv --system-site-packages "$output/venv" &&
    timeout $((minutes * 30)) "$output/venv/bin/python" -m pip install --disable-pip-version-check --editable "$root[$extras]" pytest
  } >"$output/install.log" 2>&1
  case $? in
    0) ;;
    124) echo "error: installing took more than $((minutes * 30)) s, half of MINUTES=$minutes; the same command goes on with it" >&2; exit 1 ;;
    *) echo "error: it could not be installed; $output/install.log says why" >&2; exit 1 ;;
  esac
  python=$output/venv/bin/python
fi
backend=$(timeout 60 "$python" -c 'import jax; print(jax.default_backend())' 2>"$output/backend.log") ||
  { echo "error: jax finds no device; $output/backend.log says why" >&2; exit 1; }
deterministic=""
[ "$backend" != gpu ] || deterministic="--xla_gpu_deterministic_ops=true"

part devices 30 "$python" benchmarks/accelerator.py devices
part equality 50 "$python" benchmarks/accelerator.py equality

if "$python" -c 'import pytest' 2>/dev/null; then
  # On the CPU of a machine without an accelerator the tests choose XLA's flags themselves.
  part tests 60 env TRANSFORMER_JAX_TEST_PLATFORMS="${JAX_PLATFORMS:-}" ${deterministic:+XLA_FLAGS=$deterministic} \
    "$python" -m pytest -q --no-header --tb=line -W default -p no:cacheprovider -m "accelerator and not slow" $tests
else
  without tests "pytest is not installed"
fi
part demo 60 "$python" benchmarks/accelerator.py demo --output="$output" $recipe

systems=(ours)
if [ "$backend" = tpu ]; then
  note="PyTorch is not compared with on a TPU"
elif ! "$python" -c 'import torch' 2>/dev/null; then
  note="PyTorch is not installed"
elif [ "$backend" = gpu ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  note="the PyTorch that is installed finds no GPU"
else
  note="" systems+=("PyTorch compiled")
fi
part speed 110 "$python" benchmarks/train_speed.py --models $models --data $data --vocab_size=$pieces --precision bfloat16 \
  --systems "${systems[@]}" --laps=$laps --steps=$steps $small
[ -z "$note" ] || case $parts in *" speed "*) record pytorch - 0 0 "$note" ;; esac

mkdir -p "$output/text"
if [ -n "$multi30k" ]; then
  "$python" benchmarks/enlarge.py "$multi30k/train" $copies "$text" 2>"$output/text.log"
else
  "$python" benchmarks/accelerator.py text --output="$output" --copies=$copies ${TINY:+--pairs=300} 2>"$output/text.log"
fi
lengths="--config.batch.tokens=$tokens --config.batch.max_length=64 --config.batch.packed_length=64 --config.batch.row_multiple=8"
for kind in packed bucketed; do
  part $kind 60 "$python" benchmarks/train_speed.py --models $models --data "$text$share" --precision bfloat16 --systems ours --laps=1 \
    --vocab_size=$words --config.batch.kind=$kind --config.batch.shapes=$shapes $lengths $small
done

if [ -d "$output/demo/checkpoints" ]; then
  part decoding 60 "$python" benchmarks/decode_speed.py --workdir="$output/demo" --test demo:test --device accelerator $sentences
else
  without decoding "the part demo trained no model"
fi
part deterministic 60 "$python" benchmarks/accelerator.py deterministic --model=${models%% *} --data=$data \
  --vocab_size=$pieces --steps=$updates $small
if [ -n "$multi30k" ]; then
  part captions 240 "$python" benchmarks/leaderboard.py minutes --data="$multi30k" --output="$output/minutes" $recipe
else
  without captions "no folder of Multi30k was given"
fi
echo "$output/accelerator.md" >&2
