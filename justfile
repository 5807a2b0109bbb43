# The steps that .ci/run takes, one by one.

# Everything CI checks.
check: fmt clippy test docs

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --all-targets --release -- -D warnings

test:
    cargo test --workspace --release

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# The CUDA compiler, into .nvcc; the next build embeds the kernels.
nvcc:
    scripts/fetch-nvcc

# What is embedded, what this machine has, which kernel each operation takes.
doctor:
    cargo run --release -- doctor

# A video from the embedded model.
demo:
    cargo run --release -- t2v --prompt "a red ball moves left on a white background"

# Recorded runs of the official code, replayed.
conform dir="tests/fixtures":
    cargo run --release -- conform {{dir}}

# Every kind of host operation, checked and timed: a minute on two cores.
bench-smoke:
    cargo run --release -- bench --suite host-smoke

# A suite (host, networks, device), with its records and table in a folder.
bench suite="host" out="output/bench":
    cargo run --release -- bench --suite {{suite}} --out {{out}}

# The host cases through criterion; a part of a name chooses.
criterion filter="":
    cargo bench -p turbowan-benches -- {{filter}}

# Ours and PyTorch's, in turns, on an idle machine with torch, diffusers and safetensors.
pair-host out:
    cargo build --release
    benches/peers/pair_host.sh {{out}}

# A CPU's report from nothing, in under a quarter of an hour on an idle machine: records, index.html and README.md in a new folder.
report-host out:
    cargo build --release
    target/release/turbowan report host --out {{out}} --peers benches/peers

# The page of records again, e.g. of reports/DATE-MACHINE.
report-bench out +records:
    cargo run --release -- report bench {{records}} --out {{out}}

# Whether this checkout is slower than an older build, case by case and beyond the noise: five rounds in turns.
gate old suite="host-smoke":
    cargo build --release
    scripts/gate {{old}} target/release/turbowan --suite {{suite}}

# What each kernel takes of each chip, and the predicted budget of its hot loop, from the embedded machine code.
report-kernels:
    cargo run --release -- report kernels
