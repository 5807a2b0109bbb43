"""PyTorch's side of the attention pairing: scaled_dot_product_attention in f32 on the CPU.

    python benches/peers/attention.py 1x12x4096x128 1x12x16384x128 --threads 2 --repeats 7

Each shape is batch x heads x length x head dim; `BxHxQxKxD` gives queries and keys of different lengths. Prints one
JSON line a shape (line.py says which fields). PyTorch is installed by whoever runs this, never by CI.
"""

import argparse
import time

import torch
import torch.nn.functional as F

from line import print_line


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
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", type=parse_shape, default=[parse_shape("1x12x4096x128")])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--causal", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for sizes in args.shapes:
        batch, heads, query_len, key_len, head_dim = sizes
        shape = {"batch": batch, "heads": heads, "len": query_len, "head_dim": head_dim}
        if key_len != query_len:
            shape["keys"] = key_len
        if args.causal:
            shape["causal"] = True  # which no case of ours is
        seconds = time_shape(sizes, args.causal, args.repeats)
        print_line("pytorch", torch.__version__, "scaled_dot_product_attention f32", "attention", shape, args.threads, seconds,
                   cpu_capability=torch.backends.cpu.get_cpu_capability())


if __name__ == "__main__":
    main()
