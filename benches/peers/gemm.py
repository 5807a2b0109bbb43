"""PyTorch's side of the dense product pairing: torch.nn.functional.linear, _int_mm, _scaled_mm.

    python benches/peers/gemm.py 2048x1536x1536 2048x8960x1536 --threads 2 --repeats 9
    python benches/peers/gemm.py --device cuda --formats bf16 int8 fp8 32760x1536x1536      # all are cuBLASLt
    python benches/peers/gemm.py --device cuda --formats bf16 int8 fp8 --cases benches/cases/device.toml

Each shape is rows x out x input; `--cases` takes those of a file of ours. Prints one JSON line a shape and number format
(line.py says which fields). int8 is torch._int_mm, whose s32 results are not scaled; fp8 is torch._scaled_mm of e4m3 with
one scale a matrix, stored in bf16. Neither has the scales of blocks that ours has. PyTorch is installed by whoever runs
this, never by CI.
"""

import argparse
import sys

import torch
import torch.nn.functional as F

from line import cases, print_line, sample

FORMATS = {"f32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}
CALLED = {"f32": "linear f32", "bf16": "linear bf16", "int8": "_int_mm", "fp8": "_scaled_mm e4m3"}
SIDES = ("rows", "out", "input")


def parse_shape(text):
    sizes = [int(part) for part in text.split("x")]
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected ROWSxOUTxINPUT")
    return dict(zip(SIDES, sizes))


def time_shape(shape, name, repeats, device):
    rows, out, width = (shape[side] for side in SIDES)
    generator = torch.Generator().manual_seed(0)
    scale = 40 if name == "int8" else 1
    x = (torch.randn(rows, width, generator=generator) * scale).to(FORMATS[name]).to(device)
    weight = (torch.randn(out, width, generator=generator) * scale).to(FORMATS[name]).to(device)
    one = torch.ones((), device=device)
    product = {
        "int8": lambda: torch._int_mm(x, weight.t()),
        "fp8": lambda: torch._scaled_mm(x, weight.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16),
    }.get(name, lambda: F.linear(x, weight))
    with torch.inference_mode():
        return sample(product, repeats, device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["2048x1536x1536", "2048x8960x1536", "2048x1536x8960"]
    parser.add_argument("shapes", nargs="*", type=parse_shape, default=[parse_shape(text) for text in default])
    parser.add_argument("--cases", help="a file of benches/cases")
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
    wanted = cases(args.cases, "linear", SIDES) if args.cases else [(None, shape) for shape in args.shapes]
    for case, shape in wanted:
        for name in args.formats:
            try:
                seconds = time_shape(shape, name, args.repeats, args.device)
            except RuntimeError as why:
                # a format that this device or shape has not, or too little memory: said, and no line
                print(f"{case or shape}: {name}: {why}", file=sys.stderr)
                continue
            print_line("pytorch", torch.__version__, CALLED[name], "linear", shape, threads, seconds, case=case, **on)


if __name__ == "__main__":
    main()
