"""PyTorch's side of the dense product pairing: torch.nn.functional.linear.

    python benches/peers/gemm.py 2048x1536x1536 2048x8960x1536 --threads 2 --repeats 9
    python benches/peers/gemm.py --device cuda --formats bf16 int8 32760x1536x1536      # both are cuBLASLt

Each shape is rows x out x input. Prints one JSON line a shape and number format (line.py says which fields). int8 is
torch._int_mm, whose s32 results are not scaled. PyTorch is installed by whoever runs this, never by CI.
"""

import argparse

import torch
import torch.nn.functional as F

from line import print_line, sample

FORMATS = {"f32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def parse_shape(text):
    sizes = [int(part) for part in text.split("x")]
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected ROWSxOUTxINPUT")
    return sizes


def time_shape(sizes, name, repeats, device):
    rows, out, width = sizes
    generator = torch.Generator().manual_seed(0)
    scale = 40 if name == "int8" else 1
    x = (torch.randn(rows, width, generator=generator) * scale).to(FORMATS[name]).to(device)
    weight = (torch.randn(out, width, generator=generator) * scale).to(FORMATS[name]).to(device)
    product = (lambda: torch._int_mm(x, weight.t())) if name == "int8" else (lambda: F.linear(x, weight))
    with torch.inference_mode():
        return sample(product, repeats, device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["2048x1536x1536", "2048x8960x1536", "2048x1536x8960"]
    parser.add_argument("shapes", nargs="*", type=parse_shape, default=[parse_shape(text) for text in default])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["f32"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    on = {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    if args.device == "cuda":
        on = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    threads = args.threads if args.device == "cpu" else None
    for sizes in args.shapes:
        shape = dict(zip(("rows", "out", "input"), sizes))
        for name in args.formats:
            called = "_int_mm" if name == "int8" else f"linear {name}"
            seconds = time_shape(sizes, name, args.repeats, args.device)
            print_line("pytorch", torch.__version__, called, "linear", shape, threads, seconds, **on)


if __name__ == "__main__":
    main()
