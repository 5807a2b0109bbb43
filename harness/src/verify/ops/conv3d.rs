//! The causal convolutions of the autoencoder, one operation a kernel; [`super::convolve`] runs them.

use turbowan_cuda::device::OpKernel;
use turbowan_cuda::ops::conv3d::Sampling;
use turbowan_cuda::ops::conv3d::device::KERNELS;

use super::convolve::{Convolve, End};
use crate::verify::{Axis, Case, Far, Fault, Kind, Op, Prepared};

/// Each of `frames` results sees `kt` frames, those of the next `stride` later; of all of them the first `absent` are not there.
/// With two `parts` the halves of the channels are frames that follow one another. `add` 1 adds onto a residual; `bf16` 0 keeps
/// the host's results in f32, a device stores bf16.
const fn axes(least: usize, most: usize) -> [Axis; 11] {
    [
        Axis::new("input", 1, 72, 1),
        Axis::new("output", least, most, 1),
        Axis::new("height", 2, 12, 1),
        Axis::new("width", 2, 36, 1),
        Axis::new("kt", 1, 3, 1),
        Axis::new("frames", 1, 3, 1),
        Axis::new("stride", 1, 2, 1),
        Axis::choice("absent", 2),
        Axis::new("parts", 1, 2, 1),
        Axis::choice("add", 1),
        Axis::choice("bf16", 1),
    ]
}

/// Channels that fill a panel of 96.
const WIDE: &[Axis] = &axes(49, 120);

/// Few channels, in panels of 16.
const NARROW: &[Axis] = &axes(1, 48);

/// Any: where frames are halved or doubled, panels are always of 96.
const ANY: &[Axis] = &axes(1, 120);

/// Colours.
const COLORS: &[Axis] = &axes(3, 3);

/// Every kernel, and every end.
pub const OPS: [Op; 9] = [
    Op {
        name: "conv3d",
        about: "sum of x[t + i, h + j, w + k] weight[o, :, i, j, k] over channels and taps, causal in time",
        axes: WIDE,
        // few channels and many; less than a tile and a little more; frames that are not there; halves that are frames
        cases: || {
            let shapes: [&[usize]; 5] = [
                &[3, 96, 9, 17, 3, 1, 1, 0, 1, 0, 0],
                &[40, 49, 1, 1, 3, 1, 1, 2, 1, 0, 1],
                &[33, 97, 2, 31, 1, 1, 1, 0, 1, 1, 0],
                &[16, 60, 3, 5, 3, 2, 1, 1, 1, 1, 1],
                &[8, 104, 3, 4, 2, 2, 2, 1, 2, 0, 0],
            ];
            Case::cross(&shapes, &[16, 52, 6, 9, 2, 1, 1, 0, 1, 0, 0], &Kind::ALL[1..])
        },
        kernels: |chip| named(chip, &KERNELS[..1]),
        // rows of 1024 values, a block of eight lines
        far: &[Far { shape: &[64, 64, 5, 16, 1, 1, 1, 0, 1, 1, 0], lead: 1 << 21, blocks: (1 << 18, 1) }],
        ..op(|case| Convolve::prepare(case, (3, Sampling::Same), End::Frames))
    },
    Op {
        name: "conv3d-1x1",
        about: "the same over channels and frames alone",
        axes: WIDE,
        cases: || {
            let shapes: [&[usize]; 4] = [
                &[33, 50, 9, 5, 1, 1, 1, 0, 1, 0, 0],
                &[72, 104, 3, 18, 3, 1, 1, 2, 2, 1, 0],
                &[20, 64, 4, 5, 3, 2, 2, 0, 1, 0, 1],
                &[1, 97, 1, 1, 1, 2, 1, 0, 1, 1, 1],
            ];
            Case::cross(&shapes, &[24, 96, 6, 9, 3, 1, 1, 0, 1, 0, 0], &Kind::ALL[1..])
        },
        kernels: |chip| named(chip, &KERNELS[1..2]),
        far: &[Far { shape: &[64, 64, 5, 16, 1, 1, 1, 0, 1, 0, 0], lead: 1 << 21, blocks: (1 << 18, 1) }],
        ..op(|case| Convolve::prepare(case, (1, Sampling::Same), End::Frames))
    },
    Op {
        name: "conv3d-halve",
        about: "the same at every second pixel",
        cases: || {
            let shapes: [&[usize]; 3] =
                [&[10, 50, 19, 8, 1, 1, 1, 0, 1, 0, 0], &[5, 5, 2, 36, 1, 2, 1, 0, 1, 1, 1], &[40, 97, 7, 10, 1, 1, 1, 0, 1, 0, 1]];
            Case::cross(&shapes, &[16, 24, 6, 9, 1, 1, 1, 0, 1, 0, 0], &Kind::ALL[1..])
        },
        kernels: |chip| named(chip, &KERNELS[2..3]),
        // an even number of rows becomes half as many, in two panels
        far: &[Far { shape: &[32, 128, 6, 32, 1, 1, 1, 0, 1, 0, 0], lead: 1 << 21, blocks: (1 << 18, 2) }],
        ..op(|case| Convolve::prepare(case, (3, Sampling::Halve), End::Frames))
    },
    Op {
        name: "conv3d-double",
        about: "the same of the frame with every pixel four times",
        cases: || {
            let shapes: [&[usize]; 3] =
                [&[20, 10, 5, 9, 1, 1, 1, 0, 1, 0, 0], &[7, 50, 1, 1, 1, 2, 1, 0, 1, 0, 1], &[72, 97, 2, 9, 1, 1, 1, 0, 1, 1, 0]];
            Case::cross(&shapes, &[12, 24, 4, 9, 1, 1, 1, 0, 1, 0, 0], &Kind::ALL[1..])
        },
        kernels: |chip| named(chip, &KERNELS[3..4]),
        // 2^20 rows become 2^21, of two tiles each
        far: &[Far { shape: &[128, 64, 3, 16, 1, 1, 1, 0, 1, 0, 0], lead: 1 << 20, blocks: (1 << 19, 2) }],
        ..op(|case| Convolve::prepare(case, (3, Sampling::Double), End::Frames))
    },
    Op {
        name: "conv3d-narrow",
        about: "conv3d to few channels",
        axes: NARROW,
        cases: || {
            let shapes: [&[usize]; 4] = [
                &[72, 3, 8, 16, 3, 1, 1, 2, 1, 0, 0],
                &[16, 20, 3, 20, 3, 1, 1, 1, 1, 1, 1],
                &[5, 1, 1, 1, 3, 2, 1, 2, 1, 0, 0],
                &[40, 48, 9, 5, 2, 2, 2, 0, 2, 0, 0],
            ];
            Case::cross(&shapes, &[16, 16, 6, 9, 3, 1, 1, 0, 1, 0, 0], &Kind::ALL[1..])
        },
        kernels: |chip| named(chip, &KERNELS[4..5]),
        far: &[Far { shape: &[16, 16, 5, 16, 1, 1, 1, 0, 1, 0, 0], lead: 1 << 23, blocks: (1 << 20, 1) }],
        ..op(|case| Convolve::prepare(case, (3, Sampling::Same), End::Frames))
    },
    Op {
        name: "conv3d-narrow-1x1",
        about: "conv3d-1x1 to few channels",
        axes: NARROW,
        cases: || {
            let shapes: [&[usize]; 3] =
                [&[16, 16, 9, 3, 1, 2, 1, 0, 1, 0, 0], &[20, 40, 2, 3, 3, 1, 1, 1, 2, 1, 1], &[1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1]];
            Case::cross(&shapes, &[40, 33, 6, 9, 3, 1, 1, 0, 1, 0, 0], &Kind::ALL[1..])
        },
        kernels: |chip| named(chip, &KERNELS[5..6]),
        far: &[Far { shape: &[16, 16, 5, 16, 1, 1, 1, 0, 1, 0, 0], lead: 1 << 23, blocks: (1 << 20, 1) }],
        ..op(|case| Convolve::prepare(case, (1, Sampling::Same), End::Frames))
    },
    Op {
        name: "conv3d-pixels",
        about: "conv3d to video pixels between -1 and 1",
        cases: pixels,
        ..colors(|case| Convolve::prepare(case, (3, Sampling::Same), End::Values))
    },
    Op {
        name: "conv3d-bytes",
        about: "conv3d to video pixels, trunc(clamp((1 + y) / 2) 255 + 0.5)",
        cases: pixels,
        // rows of 48 bytes
        far: &[Far { shape: &[8, 3, 5, 16, 1, 1, 1, 0, 1, 0, 1], lead: 44_739_248, blocks: (44_739_248 / 8, 1) }],
        ..colors(|case| Convolve::prepare(case, (3, Sampling::Same), End::Bytes))
    },
    Op {
        name: "conv3d-norm-silu",
        about: "conv3d, then the channel norm and SiLU of its pixels",
        cases: || {
            let shapes: [&[usize]; 4] = [
                &[16, 60, 5, 18, 2, 1, 1, 0, 1, 1, 1],
                &[8, 96, 3, 4, 1, 2, 1, 0, 1, 0, 1],
                &[8, 10, 9, 18, 3, 1, 1, 2, 1, 1, 0],
                &[24, 16, 1, 1, 3, 1, 1, 2, 1, 0, 1],
            ];
            Case::cross(&shapes, &[16, 52, 6, 9, 1, 1, 1, 0, 1, 0, 1], &Kind::ALL[1..])
        },
        // a block has all channels of a pixel
        tame: |case| {
            tame(case);
            case.shape[8] = 1;
            case.shape[1] = match case.shape[1] {
                17..=48 => 16,
                97.. => 96,
                channels => channels,
            };
        },
        kernels: |chip| [named(chip, &KERNELS[..1]), named(chip, &KERNELS[4..5])].concat(),
        far: &[Far { shape: &[64, 64, 5, 16, 1, 1, 1, 0, 1, 0, 1], lead: 1 << 21, blocks: (1 << 18, 1) }],
        ..op(|case| Convolve::prepare(case, (3, Sampling::Same), End::Normed))
    },
];

const fn op(prepare: fn(&Case) -> Result<Box<dyn Prepared>, Fault>) -> Op {
    Op { name: "", about: "", axes: ANY, cases: Vec::new, tame, kernels: |_| Vec::new(), far: &[], prepare }
}

const fn colors(prepare: fn(&Case) -> Result<Box<dyn Prepared>, Fault>) -> Op {
    let tame_colors = |case: &mut Case| {
        (case.shape[8], case.shape[9]) = (1, 0);
        tame(case);
    };
    Op { axes: COLORS, tame: tame_colors, kernels: |chip| named(chip, &KERNELS[6..]), ..op(prepare) }
}

fn pixels() -> Vec<Case> {
    let shapes: [&[usize]; 3] =
        [&[72, 3, 9, 18, 3, 1, 1, 2, 1, 0, 0], &[8, 3, 1, 1, 3, 1, 1, 2, 1, 0, 1], &[16, 3, 8, 16, 2, 2, 1, 0, 1, 0, 1]];
    Case::cross(&shapes, &[16, 3, 6, 9, 3, 1, 1, 0, 1, 0, 1], &Kind::ALL[1..])
}

fn named(chip: (u32, u32), kernels: &[OpKernel]) -> Vec<&'static str> {
    kernels.iter().map(|kernel| (kernel.choose)(chip).1).collect()
}

/// Halves are as large as one another, and the last frame of a window is always there.
fn tame(case: &mut Case) {
    if case.shape[1] < 2 {
        case.shape[8] = 1;
    }
    if case.shape[8] == 2 {
        case.shape[1] = case.shape[1].next_multiple_of(2);
    }
    case.shape[7] = case.shape[7].min(case.shape[4] - 1);
}
