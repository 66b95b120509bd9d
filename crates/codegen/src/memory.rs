//! Machine code in memory: calling it, and freeing it. The only module of this crate with unsafe code.
//!
//! Cranelift leaks a `JITModule`'s memory unless told otherwise, so [`JitMemory`] frees it when the last handle is
//! gone: every [`KernelFn`] keeps it alive.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use cranelift_jit::JITModule;
use cranelift_module::FuncId;

/// The signature of a kernel's machine code.
type Code = unsafe extern "C" fn(*const *mut u8, *const i64, i64, i64, i64, i64);

/// The signature of a loop's machine code.
type LoopCode = unsafe extern "C" fn(*mut *mut u8, i64);

/// Owner of the memory that code lies in.
pub(crate) struct JitMemory {
    module: Mutex<Option<JITModule>>,
}

impl JitMemory {
    /// Takes over a module whose definitions are final.
    pub(crate) fn new(module: JITModule) -> Arc<Self> {
        Arc::new(JitMemory { module: Mutex::new(Some(module)) })
    }
}

impl Drop for JitMemory {
    fn drop(&mut self) {
        let slot = match self.module.get_mut() {
            Ok(slot) => slot,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some(module) = slot.take() {
            // SAFETY: every `KernelFn` holds an `Arc` of this owner, and it is being dropped, so no pointer into the
            // memory is left and none of the functions is running.
            unsafe { module.free_memory() };
        }
    }
}

/// The machine code of a kernel; keeps the memory it lies in alive.
#[derive(Clone)]
pub struct KernelFn {
    code: Code,
    n_bytes: usize,
    n_args: usize,
    layout_len: usize,
    /// Held, not read.
    _memory: Arc<JitMemory>,
}

impl std::fmt::Debug for KernelFn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KernelFn({:p})", self.code as *const u8)
    }
}

impl KernelFn {
    /// The handle of code of so many bytes, with the signature of kernels, in a module that `memory` owns.
    pub(crate) fn of_module(
        (id, n_bytes): (FuncId, usize),
        n_args: usize,
        layout_len: usize,
        memory: &Arc<JitMemory>,
    ) -> Option<Self> {
        let module = memory.module.lock().ok()?;
        let address = module.as_ref()?.get_finalized_function(id);
        // SAFETY: `backend` declares every function it defines with the signature of `Code`, and the module has
        // finalized this one: `get_finalized_function` panics otherwise.
        let code = unsafe { std::mem::transmute::<*const u8, Code>(address) };
        Some(KernelFn { code, n_bytes, n_args, layout_len, _memory: memory.clone() })
    }

    /// Where the code lies, for tools that look at running programs.
    pub fn address(&self) -> usize {
        self.code as usize
    }

    /// The machine code, constants behind it included.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `backend` hands over the size of the function that it defined; the code is alive because `self` holds its owner,
        // readable since it is run, and written no more since the module is final.
        unsafe { std::slice::from_raw_parts(self.address() as *const u8, self.n_bytes) }
    }

    /// Whether two handles run the same machine code.
    pub fn same_code(&self, other: &KernelFn) -> bool {
        self.address() == other.address()
    }

    /// Runs some rows and some of the inner range (`Row` sweeps take whole rows whatever `cols` says).
    ///
    /// # Safety
    /// The CPU has the instruction set that the code was made for; `layout` is the [`cotangent_kernel::ir::Kernel::layout`] of a verified kernel with this code's key; `rows` and
    /// `cols` lie inside of it; every pointer is that of element 0 of its argument, whose length satisfies
    /// [`cotangent_kernel::ir::Kernel::check_bounds`]; nothing else accesses what is written while the call runs; and
    /// arguments overlap only where a unit's loads and stores of the same element coincide.
    ///
    /// # Panics
    /// If there are fewer pointers or layout entries than the code reads.
    pub unsafe fn call(&self, ptrs: &[*mut u8], layout: &[i64], rows: Range<usize>, cols: Range<usize>) {
        assert!(
            ptrs.len() >= self.n_args && layout.len() >= self.layout_len,
            "a kernel is called with too few arguments"
        );
        let [row0, row1, col0, col1] = [rows.start, rows.end, cols.start, cols.end].map(|i| i as i64);
        // SAFETY: the code is alive because `self` holds its owner; it reads no more pointers and layout entries than
        // just checked, and the caller vouches that what they lead to may be accessed.
        unsafe { (self.code)(ptrs.as_ptr(), layout.as_ptr(), row0, row1, col0, col1) }
    }
}

/// The machine code of a loop around kernels; keeps the memory it lies in alive.
#[derive(Clone)]
pub struct LoopFn {
    code: LoopCode,
    n_pointers: usize,
    /// Held, not read.
    _memory: Arc<JitMemory>,
}

impl std::fmt::Debug for LoopFn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LoopFn({:p})", self.code as *const u8)
    }
}

impl LoopFn {
    /// The handle of code that Cranelift made, with the signature of loops, in a module that `memory` owns.
    pub(crate) fn of_module(id: FuncId, n_pointers: usize, memory: &Arc<JitMemory>) -> Option<Self> {
        let module = memory.module.lock().ok()?;
        let address = module.as_ref()?.get_finalized_function(id);
        // SAFETY: `backend` declares every loop it defines with the signature of `LoopCode`, and the module has finalized this one:
        // `get_finalized_function` panics otherwise.
        let code = unsafe { std::mem::transmute::<*const u8, LoopCode>(address) };
        Some(LoopFn { code, n_pointers, _memory: memory.clone() })
    }

    /// Runs so many iterations, the first with the pointers as they stand in the table. Afterwards those that move stand where one
    /// more iteration would have them.
    ///
    /// # Safety
    /// In every iteration what [`KernelFn::call`] demands holds of all kernels of the body, for all of their rows and columns, with
    /// the pointers and the layouts that the table has for them; and what is copied may be read and written, and is apart.
    ///
    /// # Panics
    /// If the table has fewer pointers than the body.
    pub unsafe fn call(&self, table: &mut [*mut u8], n: usize) {
        assert!(table.len() >= self.n_pointers, "a loop is called with too few pointers");
        // SAFETY: the code is alive because `self` holds its owner; it touches no more of the table than just checked, and the caller
        // vouches that what that leads to may be accessed.
        unsafe { (self.code)(table.as_mut_ptr(), n as i64) }
    }
}
