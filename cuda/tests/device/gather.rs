//! Rows of a table and patches of a latent: on every device the values that were there.

use half::bf16;
use turbowan_cuda::Error;
use turbowan_cuda::ops::gather::device::{Embedding, Patches, PlaneValues, Table};
use turbowan_cuda::ops::gather::{Planes, check_ids};
use turbowan_reference::inputs::normal;

use crate::{devices, devices_in_all_ways};

#[test]
fn embedded_rows_are_those_of_the_table() {
    for device in devices_in_all_ways() {
        for (table_rows, width) in [(1, 8), (19, 40), (7, 4096)] {
            let table = normal(table_rows * width, 1);
            let short: Vec<bf16> = table.iter().map(|value| bf16::from_f32(*value)).collect();
            let ids: Vec<u32> = (0..23).map(|at| (at * 5 % table_rows) as u32).collect();
            let stream = device.stream().unwrap();
            let (there, short_there, ids_there) =
                (stream.upload(&table).unwrap(), stream.upload(&short).unwrap(), stream.upload(&ids).unwrap());
            let want: Vec<bf16> = ids.iter().flat_map(|id| short[*id as usize * width..][..width].to_vec()).collect();
            for table in [Table::Bf16(short_there.view()), Table::F32(there.view())] {
                let mut out = stream.allocate(want.len()).unwrap();
                Embedding::load(&device).unwrap().run(&stream, table, width, ids_there.view(), out.view_mut()).unwrap();
                assert_eq!(out.to_vec().unwrap(), want, "{device:?} {table_rows} x {width}");
            }
        }
    }
}

#[test]
fn a_number_that_the_table_does_not_have_reads_nothing_and_is_seen() {
    assert!(check_ids(&[0, 4, 3], 5).is_ok());
    assert!(matches!(check_ids(&[0, 5, 9], 5), Err(Error::Size { found: 5, .. })));
    for device in devices() {
        let stream = device.stream().unwrap();
        let (table, ids) = (stream.upload(&[bf16::ONE; 16]).unwrap(), stream.upload(&[1u32, 2, u32::MAX, 0]).unwrap());
        let mut out = stream.allocate::<bf16>(32).unwrap();
        let kernel = Embedding::load(&device).unwrap();
        kernel.run(&stream, Table::Bf16(table.view()), 8, ids.view(), out.view_mut()).unwrap();
        let rows = out.to_vec().unwrap();
        assert!(rows[8..24].iter().all(|value| value.is_nan()));
        assert!(rows[..8].iter().chain(&rows[24..]).all(|value| *value == bf16::ONE));
        let refused = kernel.run(&stream, Table::Bf16(table.view().slice(0..12).unwrap()), 8, ids.view(), out.view_mut());
        assert!(matches!(refused, Err(Error::Length { what: "embedding table", .. })));
        let refused = kernel.run(&stream, Table::Bf16(table.view().slice(0..0).unwrap()), 8, ids.view(), out.view_mut());
        assert!(matches!(refused, Err(Error::Size { what: "rows of an embedding table", .. })));
        let refused = kernel.run(&stream, Table::Bf16(table.view()), 16, ids.view(), out.view_mut());
        assert!(matches!(refused, Err(Error::Length { what: "embedded rows", .. })));
    }
}

/// Where a plane's value lies.
fn place(planes: &Planes, plane: usize, t: usize, h: usize, w: usize) -> usize {
    ((plane * planes.frames + t) * planes.height + h) * planes.width + w
}

/// Tokens in order, by their `(sample, t, h, w)`.
fn tokens(planes: &Planes) -> Vec<[usize; 4]> {
    let (rows, columns) = (planes.height / 2, planes.width / 2);
    (0..planes.samples * planes.tokens())
        .map(|at| [at / planes.tokens(), at % planes.tokens() / columns / rows, at / columns % rows, at % columns])
        .collect()
}

const PLANES: [Planes; 3] = [
    Planes { samples: 1, channels: 1, frames: 1, height: 2, width: 2 },
    Planes { samples: 2, channels: 3, frames: 3, height: 6, width: 10 },
    Planes { samples: 1, channels: 16, frames: 2, height: 4, width: 8 },
];

#[test]
fn patches_put_the_channel_first_and_take_their_place_among_all_channels() {
    for device in devices_in_all_ways() {
        for planes in PLANES {
            let x: Vec<f64> = normal(planes.values(), 1).into_iter().map(|value| f64::from(value) * 1.000_000_01).collect();
            let beside = normal(planes.values(), 2);
            let all = 2 * planes.channels + 1;
            let stream = device.stream().unwrap();
            let (there, beside_there) = (stream.upload(&x).unwrap(), stream.upload(&beside).unwrap());
            let mut out = stream.allocate::<bf16>(planes.samples * planes.tokens() * 4 * all).unwrap();
            out.view_mut().fill_bytes(0).unwrap();
            let kernel = Patches::load(&device).unwrap();
            kernel.run(&stream, &planes, PlaneValues::F64(there.view()), all, 0, out.view_mut()).unwrap();
            kernel.run(&stream, &planes, PlaneValues::F32(beside_there.view()), all, planes.channels, out.view_mut()).unwrap();
            let mut want = Vec::new();
            for [sample, t, h, w] in tokens(&planes) {
                for channel in 0..all {
                    for (dh, dw) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        let at = |channel| place(&planes, sample * planes.channels + channel, t, 2 * h + dh, 2 * w + dw);
                        want.push(match channel / planes.channels {
                            0 => bf16::from_f32(x[at(channel)] as f32),
                            1 => bf16::from_f32(beside[at(channel - planes.channels)]),
                            _ => bf16::ZERO,
                        });
                    }
                }
            }
            assert_eq!(out.to_vec().unwrap(), want, "{device:?} {planes:?}");
        }
    }
}

#[test]
fn planes_come_back_from_rows_whose_channel_is_the_fastest() {
    for device in devices_in_all_ways() {
        for planes in PLANES {
            let rows = normal(planes.values(), 3);
            let stream = device.stream().unwrap();
            let (there, mut out) = (stream.upload(&rows).unwrap(), stream.allocate::<f32>(rows.len()).unwrap());
            Patches::load(&device).unwrap().undo(&stream, &planes, there.view(), out.view_mut()).unwrap();
            let mut want = vec![f32::NAN; rows.len()];
            for (row, [sample, t, h, w]) in rows.chunks(4 * planes.channels).zip(tokens(&planes)) {
                for (feature, value) in row.iter().enumerate() {
                    let (patch, channel) = (feature / planes.channels, feature % planes.channels);
                    want[place(&planes, sample * planes.channels + channel, t, 2 * h + patch / 2, 2 * w + patch % 2)] = *value;
                }
            }
            assert_eq!(out.to_vec().unwrap(), want, "{device:?} {planes:?}");
        }
    }
}

#[test]
fn planes_that_do_not_fit_are_refused() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let kernel = Patches::load(&device).unwrap();
        let good = Planes { samples: 1, channels: 2, frames: 1, height: 2, width: 4 };
        let x = stream.upload(&[1.0f32; 16]).unwrap();
        let mut out = stream.allocate::<bf16>(16).unwrap();
        let mut run = |planes: Planes, all, first| kernel.run(&stream, &planes, PlaneValues::F32(x.view()), all, first, out.view_mut());
        run(good, 2, 0).unwrap();
        assert!(matches!(run(Planes { height: 3, ..good }, 2, 0), Err(Error::Size { what: "height of a plane", .. })));
        assert!(matches!(run(Planes { samples: 0, ..good }, 2, 0), Err(Error::Size { what: "samples", .. })));
        assert!(matches!(run(good, 2, 1), Err(Error::Size { what: "channels of a patch", .. })));
        assert!(matches!(run(Planes { frames: 2, ..good }, 2, 0), Err(Error::Length { what: "planes of a latent", .. })));
        assert!(matches!(run(good, 3, 0), Err(Error::Length { what: "rows of patches", expected: 24, found: 16 })));
    }
}
