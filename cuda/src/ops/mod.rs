//! Dense operations: contract and host twin of each stand in one file.
