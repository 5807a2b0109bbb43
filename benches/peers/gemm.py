"""PyTorch's side of the dense product pairing: torch.nn.functional.linear on the CPU.

    python benches/peers/gemm.py 2048x1536x1536 2048x8960x1536 --threads 2 --repeats 9

Each shape is rows x out x input, as in `cargo run --release -p turbowan-cuda --example gemm_speed`. Prints one JSON
object with seconds (min and median) for each shape and number format. PyTorch is installed by whoever runs this,
never by CI.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

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
    flop = 2 * rows * out * width
    return {
        "shape": sizes,
        "format": name,
        "min_s": min(seconds),
        "median_s": statistics.median(seconds),
        "gflop_per_s": flop / statistics.median(seconds) / 1e9,
        "best_gflop_per_s": flop / min(seconds) / 1e9,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["2048x1536x1536", "2048x8960x1536", "2048x1536x8960", "2048x2048x2048"]
    parser.add_argument("shapes", nargs="*", type=parse_shape, default=[parse_shape(text) for text in default])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["f32"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        json.dumps(
            {
                "op": "linear",
                "torch": torch.__version__,
                "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                "threads": args.threads,
                "cases": [time_shape(shape, name, args.repeats) for shape in args.shapes for name in args.formats],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
