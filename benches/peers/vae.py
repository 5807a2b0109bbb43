"""Wan 2.1's autoencoder in eager PyTorch, f32: the peer of the cases `vae-decode/*`.

    pip install torch diffusers safetensors
    python benches/peers/vae.py --frames 5 --side 32 --save /tmp/vae-pair
    turbowan bench --suite pairs --op vae-decode/f32 --pair /tmp/vae-pair

Decodes a random latent [1, 16, frames, side, side] with random weights of the released width, as diffusers'
AutoencoderKLWan does (one latent frame at a time, cached frames, output clamped to [-1, 1]). With --save the weights,
the latent and the video are kept, so that the other side checks its values before its clock starts. Prints one JSON
line (line.py says which fields) with the peak of the resident set in bytes before and after decoding.
"""

import argparse
import pathlib
import resource
import time

import torch
from diffusers import AutoencoderKLWan, __version__ as diffusers_version
from safetensors.torch import save_file

from line import print_line


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5, help="latent frames")
    parser.add_argument("--side", type=int, default=32, help="latent height and width")
    parser.add_argument("--width", type=int, default=96, help="channels of the first stage")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--warm", action="store_true", help="decode one latent frame first")
    parser.add_argument("--save", type=pathlib.Path, help="folder for weights, latent and video")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        model = AutoencoderKLWan(base_dim=args.width).eval()
        latent = torch.randn(1, 16, args.frames, args.side, args.side)
        if args.warm:
            model.decode(latent[:, :, :1])
        before = peak_bytes()
        seconds = []
        for _ in range(args.runs):
            start = time.perf_counter()
            video = model.decode(latent).sample
            seconds.append(time.perf_counter() - start)
        after = peak_bytes()
        if args.save:
            model.save_pretrained(args.save)
            save_file({"latent": latent, "video": video.contiguous()}, args.save / "pair.safetensors")
    shape = {"width": args.width, "latent": [args.frames, args.side, args.side]}
    print_line("diffusers", f"{diffusers_version}, torch {torch.__version__}", "AutoencoderKLWan.decode f32", "vae-decode", shape,
               args.threads, seconds, peak_before_bytes=before, process_peak_bytes=after)


if __name__ == "__main__":
    main()
