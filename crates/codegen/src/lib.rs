//! kernels to machine code through Cranelift.
