#!/usr/bin/env bash
# Our host twins and PyTorch, one after the other, on one idle machine. Into DIR: ours.jsonl and peers.jsonl, one line a
# measurement, machine.json, and pairs.txt, the paired table that also ends the run.
#
#   pip install torch diffusers safetensors
#   cargo build --release
#   PYTHON=python3 benches/peers/pair_host.sh reports/DATE-MACHINE   # TURBOWAN=program takes another build
set -euo pipefail
out=${1:?a folder for the records, e.g. reports/DATE-MACHINE}
python=${PYTHON:-python3}
threads=${THREADS:-2}
here=$(cd "$(dirname "$0")" && pwd)
turbowan=${TURBOWAN:-$here/../../target/release/turbowan}
mkdir -p "$out"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: > "$out/ours.jsonl"
: > "$out/peers.jsonl"

# ours CASE [FLAGS]: the cases of the suite whose name holds CASE
ours() { "$turbowan" bench --suite pairs --case "$1" --threads "$threads" --repeat 7 --no-ceilings --json "${@:2}" >> "$out/ours.jsonl"; }
peer() { "$python" "$here/$1" "${@:2}" --threads "$threads" >> "$out/peers.jsonl"; }

"$python" - > "$out/machine.json" <<'PY'
import datetime, json, os, platform
model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
print(json.dumps({"machine": model, "cores": os.cpu_count(), "date": datetime.date.today().isoformat(), "load_before": os.getloadavg()}))
PY

ours "sage, "
peer attention.py 1x12x4096x128
for _ in 1 2; do
  ours "as the transformer calls it"
  peer attention.py 1x12x4096x128
done
ours "linear branch included"
peer attention.py 1x12x16384x128 --repeats 3
ours "linear branch included"
for _ in 1 2; do
  ours "" --op linear/
  peer gemm.py 2048x1536x1536 2048x8960x1536 2048x1536x8960 --repeats 7
done
for _ in 1 2; do
  ours "transformer block"
  ours "the same, W8A8"
  peer dit_block.py
done
peer vae.py --frames 5 --side 32 --save "$scratch/pair"
ours "VAE decode" --pair "$scratch/pair"

"$turbowan" bench --recorded "$out/ours.jsonl" --against "$out/peers.jsonl" | tee "$out/pairs.txt"
