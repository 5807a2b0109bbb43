"""PyTorch's side of the dense product pairing: torch.nn.functional.linear on the CPU.

    python benches/peers/gemm.py 2048x1536x1536 2048x8960x1536 --threads 2 --repeats 9

Each shape is rows x out x input. Prints one JSON line a shape and number format (line.py says which fields). PyTorch is
installed by whoever runs this, never by CI.
"""

import argparse
import time

import torch
import torch.nn.functional as F

from line import print_line

FORMATS = {"f32": torch.float32, "bf16": torch.bfloat16}


def parse_shape(text):
    sizes = [int(part) for part in text.split("x")]
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected ROWSxOUTxINPUT")
    return sizes


def time_shape(sizes, name, repeats):
    rows, out, width = sizes
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator).to(FORMATS[name])
    weight = torch.randn(out, width, generator=generator).to(FORMATS[name])
    seconds = []
    with torch.inference_mode():
        F.linear(x, weight)
        for _ in range(repeats):
            start = time.perf_counter()
            F.linear(x, weight)
            seconds.append(time.perf_counter() - start)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["2048x1536x1536", "2048x8960x1536", "2048x1536x8960"]
    parser.add_argument("shapes", nargs="*", type=parse_shape, default=[parse_shape(text) for text in default])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["f32"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for sizes in args.shapes:
        shape = dict(zip(("rows", "out", "input"), sizes))
        for name in args.formats:
            print_line("pytorch", torch.__version__, f"linear {name}", "linear", shape, args.threads, time_shape(sizes, name, args.repeats),
                       cpu_capability=torch.backends.cpu.get_cpu_capability())


if __name__ == "__main__":
    main()
