"""PyTorch's side of the attention pairing: scaled_dot_product_attention, in f32 on the CPU and in bf16 on a GPU.

    python benches/peers/attention.py 1x12x4096x128 1x12x16384x128 --threads 2 --repeats 7
    python benches/peers/attention.py --device cuda --backends flash cudnn 1x12x32760x128
    python benches/peers/attention.py --device cuda --backends flash cudnn --cases benches/cases/device.toml
    python benches/peers/attention.py --device cuda --backends flash cudnn --backward --cases benches/cases/device.toml

Each shape is batch x heads x length x head dim; `BxHxQxKxD` gives queries and keys of different lengths. `--cases` takes
the shapes of a file of ours instead; blocks are never left out. `--backward` times the gradients alone, the forward pass
being done. Prints one JSON line a shape and backend (line.py says which fields). PyTorch is installed by whoever runs
this, never by CI.
"""

import argparse
import contextlib
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from line import cases, print_line, sample

BACKENDS = {
    "default": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
SIDES = ("batch", "heads", "len", "keys", "head_dim")


def parse_shape(text):
    sizes = [int(part) for part in text.split("x")]
    if len(sizes) not in (4, 5) or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected BxHxLxD or BxHxQxKxD")
    shape = {"batch": sizes[0], "heads": sizes[1], "len": sizes[2], "head_dim": sizes[-1]}
    if len(sizes) == 5 and sizes[3] != sizes[2]:
        shape["keys"] = sizes[3]
    return shape


def time_shape(shape, backend, args):
    batch, heads, head_dim = shape["batch"], shape["heads"], shape["head_dim"]
    query_len, key_len = shape["len"], shape.get("keys", shape["len"])
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    draw = lambda length: torch.randn(batch, heads, length, head_dim, generator=generator).to(dtype).to(args.device)
    query, key, value = draw(query_len), draw(key_len), draw(key_len)
    attend = lambda: F.scaled_dot_product_attention(query, key, value, is_causal=args.causal)
    with contextlib.nullcontext() if backend is None else sdpa_kernel([backend]):
        if not args.backward:
            with torch.inference_mode():
                return sample(attend, args.repeats, args.device)
        for operand in (query, key, value):
            operand.requires_grad_()
        out, gradient = attend(), draw(query_len)
        step = lambda: torch.autograd.grad(out, (query, key, value), gradient, retain_graph=True)
        return sample(step, args.repeats, args.device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", type=parse_shape, default=[parse_shape("1x12x4096x128")])
    parser.add_argument("--cases", help="a file of benches/cases")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--backward", action="store_true", help="the gradients instead")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=["default"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    family = "attention-backward" if args.backward else "attention"
    is_cpu = args.device == "cpu"
    on = {"cpu_capability": torch.backends.cpu.get_cpu_capability()} if is_cpu else {"gpu": torch.cuda.get_device_name()}
    wanted = cases(args.cases, family, SIDES) if args.cases else [(None, shape) for shape in args.shapes]
    for case, shape in wanted:
        shape = {"batch": 1} | shape | ({"causal": True} if args.causal else {})  # which no case of ours is
        for name in args.backends:
            try:
                seconds = time_shape(shape, BACKENDS[name], args)
            except RuntimeError as why:
                # a backend that this GPU or shape has not, or too little memory: said, and no line
                print(f"{case or shape}: {name}: {why}", file=sys.stderr)
                continue
            called = f"scaled_dot_product_attention {'f32' if is_cpu else 'bf16'}" + ("" if name == "default" else f" {name}")
            print_line("pytorch", torch.__version__, called + (" backward" if args.backward else ""), family, shape,
                       args.threads if is_cpu else None, seconds, case=case, **on)


if __name__ == "__main__":
    main()
