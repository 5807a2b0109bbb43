//! The host backend: plain `f32` rows, our SIMD twins, rayon.
