"""PyTorch's side of the autoencoder's convolution: torch.nn.functional.conv3d, in f32 on the CPU and in bf16 on a GPU.

    python benches/peers/conv3d.py --cases benches/cases/host.toml --threads 2
    python benches/peers/conv3d.py --device cuda --layouts channels_last planes --cases benches/cases/device.toml

A causal convolution: `frames` frames are made from as many and those before them that the kernel reaches, zeros stand
around each frame. On a GPU cuDNN chooses its algorithm in the warm-up. `channels_last` is torch.channels_last_3d, in which
our frames lie too; `planes` is torch's own layout. Prints one JSON line a shape and layout (line.py says which fields).
PyTorch is installed by whoever runs this, never by CI.
"""

import argparse
import sys

import torch
import torch.nn.functional as F

from line import cases, print_line, sample

LAYOUTS = {"channels_last": torch.channels_last_3d, "planes": torch.contiguous_format}
SIDES = ("frames", "size", "input", "output", "kernel")


def time_shape(shape, layout, repeats, device):
    height, width = shape["size"]
    kernel = shape["kernel"]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    put = lambda tensor: tensor.to(dtype).to(device).to(memory_format=LAYOUTS[layout])
    frames = shape["frames"] + kernel[0] - 1
    x = put(torch.randn(1, shape["input"], frames, height, width, generator=generator))
    weight = put(torch.randn(shape["output"], shape["input"], *kernel, generator=generator))
    bias = torch.randn(shape["output"], generator=generator).to(dtype).to(device)
    padding = (0, kernel[1] // 2, kernel[2] // 2)
    with torch.inference_mode():
        return sample(lambda: F.conv3d(x, weight, bias, padding=padding), repeats, device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", required=True, help="a file of benches/cases")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=["channels_last"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    is_cpu = args.device == "cpu"
    on = {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    if not is_cpu:
        on = {"gpu": torch.cuda.get_device_name(), "cudnn": torch.backends.cudnn.version()}
    for case, shape in cases(args.cases, "conv3d", SIDES):
        for layout in args.layouts:
            try:
                seconds = time_shape(shape, layout, args.repeats, args.device)
            except RuntimeError as why:
                # too little memory, or no algorithm: said, and no line
                print(f"{case}: {layout}: {why}", file=sys.stderr)
                continue
            called = f"conv3d {'f32' if is_cpu else 'bf16'} {layout}"
            print_line("pytorch", torch.__version__, called, "conv3d", shape, args.threads if is_cpu else None, seconds, case=case, **on)


if __name__ == "__main__":
    main()
