//! What nvcc made of the kernels: no spills, and the instructions meant.

#![allow(clippy::unwrap_used, reason = "a tool that fails fails its test")]

#[path = "../../cuda/build/check.rs"]
mod check;

use turbowan_sage::kernels;

#[test]
fn no_kernel_spills_on_any_chip() {
    check::demand_resources(kernels::ALL);
}

#[test]
fn the_machine_code_has_the_instructions_that_were_meant() {
    check::demand_instructions(kernels::ALL, option_env!("TURBOWAN_CUOBJDUMP"));
}
