"""PyTorch's side of the attention pairing: scaled_dot_product_attention in f32 on the CPU.

    python benches/peers/attention.py 1x12x4096x128 1x12x16384x128 --threads 2 --repeats 5

Each shape is batch x heads x length x head dim; `BxHxQxKxD` gives queries and keys of different lengths. Prints one
JSON object with seconds (min and median) for each shape. PyTorch is installed by whoever runs this, never by CI.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F


def parse_shape(text):
    sizes = [int(part) for part in text.split("x")]
    if len(sizes) == 4:
        sizes = [sizes[0], sizes[1], sizes[2], sizes[2], sizes[3]]
    if len(sizes) != 5 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected BxHxLxD or BxHxQxKxD")
    return sizes


def time_shape(sizes, causal, repeats):
    batch, heads, query_len, key_len, head_dim = sizes
    generator = torch.Generator().manual_seed(0)
    draw = lambda length: torch.randn(batch, heads, length, head_dim, generator=generator)
    query, key, value = draw(query_len), draw(key_len), draw(key_len)
    seconds = []
    with torch.inference_mode():
        F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        for _ in range(repeats):
            start = time.perf_counter()
            F.scaled_dot_product_attention(query, key, value, is_causal=causal)
            seconds.append(time.perf_counter() - start)
    flop = 4 * batch * heads * query_len * key_len * head_dim
    return {
        "shape": sizes,
        "causal": causal,
        "min_s": min(seconds),
        "median_s": statistics.median(seconds),
        "dense_gflop_per_s": flop / min(seconds) / 1e9,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", type=parse_shape, default=[parse_shape("1x12x4096x128")])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--causal", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        json.dumps(
            {
                "op": "scaled_dot_product_attention f32",
                "torch": torch.__version__,
                "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                "threads": args.threads,
                "cases": [time_shape(shape, args.causal, args.repeats) for shape in args.shapes],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
