//! What a transformer needs around its products: activations, modulation, linear layers in f32, the search for what is no
//! number.

use half::bf16;
use turbowan_cuda::Error;
use turbowan_cuda::ops::activation::{Activate, Function};
use turbowan_cuda::ops::finite::{FirstNotFinite, Values};
use turbowan_cuda::ops::linear_f32::{LinearF32, ProductShape};
use turbowan_cuda::ops::modulation::{Modulation, Tables};
use turbowan_reference::gemm;
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::{Bound, Verdict};

use crate::{devices, devices_in_all_ways};

fn bf16s(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

fn f32s(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

fn is_same(got: f32, want: f32) -> bool {
    got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan())
}

#[test]
fn activations_have_the_bits_of_the_host() {
    let mut x: Vec<f32> = normal(2056, 1).iter().map(|x| x * 3.0).collect();
    for (at, far) in [1e4, -1e4, 0.0, -0.0, f32::INFINITY, f32::NAN, 1e-40, -20.0].into_iter().enumerate() {
        x[at] = far;
    }
    for device in devices_in_all_ways() {
        let (stream, kernel) = (device.stream().unwrap(), Activate::load(&device).unwrap());
        for function in [Function::Gelu, Function::GeluErf, Function::Silu] {
            let there = stream.upload(&x).unwrap();
            let (mut out, mut again, mut narrow) =
                (stream.allocate::<f32>(x.len()).unwrap(), stream.upload(&x).unwrap(), stream.upload(&bf16s(&x)).unwrap());
            kernel.run_f32(&stream, function, there.view(), out.view_mut()).unwrap();
            kernel.in_place_f32(&stream, function, again.view_mut()).unwrap();
            kernel.in_place(&stream, function, narrow.view_mut()).unwrap();
            let (out, again, narrow) = (out.to_vec().unwrap(), again.to_vec().unwrap(), f32s(&narrow.to_vec().unwrap()));
            for (index, x) in x.iter().enumerate() {
                let want = function.apply(*x);
                assert!(
                    is_same(out[index], want) && is_same(again[index], want),
                    "{device:?} {function:?} {x}: {}, host {want}",
                    out[index]
                );
                let want = bf16::from_f32(function.apply(bf16::from_f32(*x).to_f32())).to_f32();
                assert!(is_same(narrow[index], want), "{device:?} {function:?} {x} in bf16: {}, host {want}", narrow[index]);
            }
        }
        let mut odd = stream.upload(&[1.0f32; 12]).unwrap();
        assert!(matches!(kernel.in_place_f32(&stream, Function::Silu, odd.view_mut()), Err(Error::Size { found: 12, .. })));
    }
}

#[test]
fn a_modulation_is_its_formula_bit_for_bit() {
    for device in devices_in_all_ways() {
        let (stream, kernel) = (device.stream().unwrap(), Modulation::load(&device).unwrap());
        let cases: [(usize, usize, usize, usize, &[usize]); 4] =
            [(6, 2, 40, 6, &[]), (2, 3, 8, 1, &[]), (1, 1, 1032, 1, &[0]), (18, 2, 12, 6, &[2, 5])];
        for (chunks, batch, width, e_chunks, gates) in cases {
            let (table, e) = (normal(chunks * width, 1), normal(batch * e_chunks * width, 2));
            let (table_there, e_there) = (stream.upload(&table).unwrap(), stream.upload(&e).unwrap());
            let mut out = stream.allocate::<f32>(chunks * batch * width).unwrap();
            kernel.table(&stream, width, table_there.view(), e_there.view(), e_chunks, gates, out.view_mut()).unwrap();
            for (index, got) in out.to_vec().unwrap().iter().enumerate() {
                let (chunk, sample, column) = (index / width / batch, index / width % batch, index % width);
                let sum = table[chunk * width + column] + e[(sample * e_chunks + chunk % e_chunks) * width + column];
                let want = if gates.contains(&(chunk % e_chunks)) { bf16::from_f32(sum).to_f32() } else { sum };
                assert_eq!(*got, want, "{device:?} {chunk} {sample} {column}");
            }
            for (e_chunks, gates) in [(0, &[][..]), (chunks + 1, &[]), (e_chunks, &[e_chunks])] {
                let refused = kernel.table(&stream, width, table_there.view(), e_there.view(), e_chunks, gates, out.view_mut());
                assert!(matches!(refused, Err(Error::Size { .. })), "{refused:?}");
            }
        }
        for (rows, width, rows_per_group) in [(1usize, 8, 1), (7, 40, 3), (3, 2056, 3)] {
            let groups = rows.div_ceil(rows_per_group);
            let (x, shift, scale) = (bf16s(&normal(rows * width, 3)), normal(groups * width, 4), normal(groups * width, 5));
            let (x_there, shift_there, scale_there) =
                (stream.upload(&x).unwrap(), stream.upload(&shift).unwrap(), stream.upload(&scale).unwrap());
            let mut out = stream.allocate::<f32>(x.len()).unwrap();
            let tables = Tables { shift: shift_there.view(), scale: scale_there.view(), rows_per_group };
            kernel.apply(&stream, width, x_there.view(), tables, out.view_mut()).unwrap();
            for (index, got) in out.to_vec().unwrap().iter().enumerate() {
                let at = index / width / rows_per_group * width + index % width;
                assert_eq!(*got, x[index].to_f32() * (1.0 + scale[at]) + shift[at], "{device:?} {rows} x {width}: {index}");
            }
        }
    }
}

#[test]
fn linear_layers_in_f32_match_the_oracle() {
    for device in devices_in_all_ways() {
        let (stream, kernel) = (device.stream().unwrap(), LinearF32::load(&device).unwrap());
        for (rows, columns, depth) in [(1, 1, 4), (1, 96, 256), (2, 35, 132), (9, 64, 128)] {
            let shape = ProductShape { rows, columns, depth };
            let (x, w, bias) = (normal(rows * depth, 1), bf16s(&normal(columns * depth, 2)), bf16s(&normal(columns, 3)));
            let want = gemm::linear(&x, &f32s(&w), Some(&f32s(&bias)), depth);
            let (x_there, w_there, bias_there) = (stream.upload(&x).unwrap(), stream.upload(&w).unwrap(), stream.upload(&bias).unwrap());
            let mut out = stream.allocate::<f32>(rows * columns).unwrap();
            kernel.run(&stream, shape, x_there.view(), w_there.view(), Some(bias_there.view()), out.view_mut()).unwrap();
            // a dozen roundings of f32 on the way of a term
            Verdict::of(&out.to_vec().unwrap(), &want, Bound::relative_l2(1e-6)).demand(&format!("{device:?} {shape:?}"));
        }
    }
}

#[test]
fn the_first_value_that_is_no_number_is_found() {
    for device in devices() {
        let (stream, kernel) = (device.stream().unwrap(), FirstNotFinite::load(&device).unwrap());
        let clean = normal(8 * 700, 1);
        for faults in [vec![], vec![0], vec![8 * 700 - 1], vec![4001, 2050, 5000]] {
            for fault in [f32::NAN, f32::NEG_INFINITY] {
                let mut x = clean.clone();
                faults.iter().for_each(|at| x[*at] = fault);
                let (wide, narrow) = (stream.upload(&x).unwrap(), stream.upload(&bf16s(&x)).unwrap());
                let want = faults.iter().min().copied();
                assert_eq!(kernel.find(&stream, Values::F32(wide.view())).unwrap(), want, "{device:?}");
                assert_eq!(kernel.find(&stream, Values::Bf16(narrow.view())).unwrap(), want, "{device:?} in bf16");
            }
        }
    }
}
