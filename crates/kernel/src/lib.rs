//! clusters, Kernel IR, schedule, plan and the kernel interpreter.
