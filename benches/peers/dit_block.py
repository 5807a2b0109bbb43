"""One Wan transformer block in eager PyTorch, f32: the peer of the cases `dit-block/*`.

The block is written from the network's equations (norm, modulation, q/k RMS norm over the full width, interleaved
rotary embedding, dense attention, cross-attention to 512 text rows, GELU feed-forward), with torch's own operators.

    pip install torch
    python benches/peers/dit_block.py --model 1.3b --latent 8x32x32

Four pixels of the latent are a token. Prints one JSON line (line.py says which fields).
"""

import argparse

import torch
import torch.nn.functional as F

from line import print_line, sample

# channels, channels of the feed-forward layer, heads
MODELS = {"1.3b": (1536, 8960, 12), "14b": (5120, 13824, 40)}


class RmsNorm(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, eps=1e-6)


class Attention(torch.nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (torch.nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RmsNorm(dim), RmsNorm(dim)

    def split(self, x):
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, context, rope=None):
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        q, k, v = self.split(q), self.split(k), self.split(v)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.o(out.transpose(1, 2).flatten(2))


def rotate(x, rope):
    cos, sin = rope
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


class Block(torch.nn.Module):
    def __init__(self, dim, ffn, heads):
        super().__init__()
        self.self_attn, self.cross_attn = Attention(dim, heads), Attention(dim, heads)
        self.norm3 = torch.nn.LayerNorm(dim, eps=1e-6)
        self.up, self.down = torch.nn.Linear(dim, ffn), torch.nn.Linear(ffn, dim)
        self.modulation = torch.nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, x, e, context, rope):
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (self.modulation + e).chunk(6, dim=1)
        norm = lambda x: F.layer_norm(x, (x.shape[-1],), eps=1e-6)
        h = norm(x) * (1 + scale_a) + shift_a
        x = x + self.self_attn(h, h, rope) * gate_a
        x = x + self.cross_attn(self.norm3(x), context)
        h = norm(x) * (1 + scale_f) + shift_f
        return x + self.down(F.gelu(self.up(h), approximate="tanh")) * gate_f


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="1.3b")
    parser.add_argument("--latent", default="8x32x32", help="frames x height x width")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    latent = [int(side) for side in args.latent.split("x")]
    tokens = latent[0] * (latent[1] // 2) * (latent[2] // 2)
    dim, ffn, heads = MODELS[args.model]
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        block = Block(dim, ffn, heads).eval()
        x = torch.randn(1, tokens, dim)
        e = torch.randn(1, 6, dim)
        context = torch.randn(1, 512, dim)
        angles = torch.rand(tokens, dim // heads // 2) * 6.28
        rope = (angles.cos(), angles.sin())
        seconds = sample(lambda: block(x, e, context, rope), args.repeats, "cpu")
    shape = {"model": args.model, "latent": latent}
    print_line("pytorch", torch.__version__, "transformer block f32", "dit-block", shape, args.threads, seconds)


if __name__ == "__main__":
    main()
