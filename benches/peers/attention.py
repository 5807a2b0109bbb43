"""PyTorch's side of the attention pairing: scaled_dot_product_attention, in f32 on the CPU and in bf16 on a GPU.

    python benches/peers/attention.py 1x12x4096x128 1x12x16384x128 --threads 2 --repeats 7
    python benches/peers/attention.py --device cuda 1x12x32760x128

Each shape is batch x heads x length x head dim; `BxHxQxKxD` gives queries and keys of different lengths. Prints one
JSON line a shape (line.py says which fields). PyTorch is installed by whoever runs this, never by CI.
"""

import argparse

import torch
import torch.nn.functional as F

from line import print_line, sample


def parse_shape(text):
    sizes = [int(part) for part in text.split("x")]
    if len(sizes) == 4:
        sizes = [sizes[0], sizes[1], sizes[2], sizes[2], sizes[3]]
    if len(sizes) != 5 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected BxHxLxD or BxHxQxKxD")
    return sizes


def time_shape(sizes, causal, repeats, device):
    batch, heads, query_len, key_len, head_dim = sizes
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    draw = lambda length: torch.randn(batch, heads, length, head_dim, generator=generator).to(dtype).to(device)
    query, key, value = draw(query_len), draw(key_len), draw(key_len)
    with torch.inference_mode():
        return sample(lambda: F.scaled_dot_product_attention(query, key, value, is_causal=causal), repeats, device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", type=parse_shape, default=[parse_shape("1x12x4096x128")])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for sizes in args.shapes:
        batch, heads, query_len, key_len, head_dim = sizes
        shape = {"batch": batch, "heads": heads, "len": query_len, "head_dim": head_dim}
        if key_len != query_len:
            shape["keys"] = key_len
        if args.causal:
            shape["causal"] = True  # which no case of ours is
        seconds = time_shape(sizes, args.causal, args.repeats, args.device)
        is_cpu = args.device == "cpu"
        name = f"scaled_dot_product_attention {'f32' if is_cpu else 'bf16'}"
        on = {"cpu_capability": torch.backends.cpu.get_cpu_capability()} if is_cpu else {"gpu": torch.cuda.get_device_name()}
        print_line("pytorch", torch.__version__, name, "attention", shape, args.threads if is_cpu else None, seconds, **on)


if __name__ == "__main__":
    main()
