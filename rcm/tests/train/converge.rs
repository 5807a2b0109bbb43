//! Each method, run for a while, finds what it should: the toy's weights start at zero or at a teacher's.
