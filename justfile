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
    cargo run --release -- t2v --prompt "a red ball bounces on blue ground"

# Recorded runs of the official code, replayed.
conform dir="tests/fixtures":
    cargo run --release -- conform {{dir}}
