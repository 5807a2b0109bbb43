#!/usr/bin/env bash
# Our host twins and PyTorch, one after the other, on one idle machine: one JSON line a measurement.
#
#   pip install torch diffusers safetensors
#   cargo build --release --workspace --examples
#   PYTHON=python3 benches/peers/pair_host.sh | tee reports/DATE-MACHINE/host.jsonl
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
ours=target/release/examples
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$python" - <<'PY'
import json, os, platform, subprocess, datetime
model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
dirty = bool(subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True).stdout.strip())
print(json.dumps({"machine": model, "cores": os.cpu_count(), "date": datetime.date.today().isoformat(), "commit": commit, "dirty": dirty,
                  "load_before": os.getloadavg()}), flush=True)
PY

"$ours/sage_speed" 1x12x4096x128
"$python" benches/peers/attention.py 1x12x4096x128 --threads 2 --repeats 5
for round in 1 2; do
  "$ours/self_attention" --tokens 4096 --runs 5
  "$python" benches/peers/attention.py 1x12x4096x128 --threads 2 --repeats 5
done
"$ours/self_attention" --tokens 16384 --sparse-only --runs 3
"$python" benches/peers/attention.py 1x12x16384x128 --threads 2 --repeats 3
"$ours/self_attention" --tokens 16384 --sparse-only --runs 3
for round in 1 2; do
  "$ours/dit_block" --runs 5
  "$python" benches/peers/dit_block.py --runs 5
done
"$python" benches/peers/vae.py --frames 5 --side 32 --save "$scratch/pair"
"$ours/vae_decode" --pair "$scratch/pair"
