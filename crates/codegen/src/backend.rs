//! Batches of kernels to machine code: sharing, the JIT module, and what a caller can inspect.
//!
//! Assumes verified kernels (and says so in debug builds); promises that kernels with equal code keys are translated
//! once, and that a failure is an error with text, never a missing function.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use cotangent_host::Target;
use cotangent_kernel::ir::{CodeKey, Kernel};
use cotangent_scalar::{DType, LibmFn};
use cranelift_codegen::Context;
use cranelift_codegen::ir::types::{F32, F64, I64};
use cranelift_codegen::ir::{AbiParam, FuncRef, Signature};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module, ModuleError, default_libcall_names};

use crate::function;
use crate::iterate::{self, Act, Callees, LoopBody};
use crate::memory::{JitMemory, KernelFn, LoopFn};
use crate::wide;

/// Why there is no machine code. No case is the user's doing.
#[derive(Clone, PartialEq, Eq)]
pub enum CodegenError {
    /// This machine has no code generator, or lacks instructions that it needs.
    Environment(String),
    /// The system refuses the memory that the code is to lie in.
    Memory(String),
    /// The code generator refused a kernel: a bug in this compiler.
    Internal(String),
}

impl fmt::Display for CodegenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodegenError::Environment(text) => write!(f, "no machine code on this machine: {text}"),
            CodegenError::Memory(text) => f.write_str(text),
            CodegenError::Internal(text) => write!(f, "bug in the code generator: {text}"),
        }
    }
}

/// The text of `Display`, so that `main` and `unwrap` print it.
impl fmt::Debug for CodegenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for CodegenError {}

/// A code generator.
pub trait Backend: Send + Sync {
    /// The name in reports.
    fn name(&self) -> &'static str;

    /// Compiles verified kernels together, and loops around some of them.
    ///
    /// # Errors
    /// See [`CodegenError`].
    ///
    /// # Panics
    /// If a body names a kernel that is not in the batch.
    fn compile_with_loops(&self, kernels: &[&Kernel], bodies: &[LoopBody]) -> Result<Compiled, CodegenError>;

    /// Compiles verified kernels together.
    ///
    /// # Errors
    /// See [`CodegenError`].
    fn compile(&self, kernels: &[&Kernel]) -> Result<Compiled, CodegenError> {
        self.compile_with_loops(kernels, &[])
    }
}

/// What the Cranelift backend keeps besides the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Keep the CLIF text of every distinct kernel.
    pub keep_clif: bool,
    /// Use no more instructions than every supported CPU has, for tests: on x86-64 neither VEX nor FMA.
    pub baseline: bool,
}

/// Which code generator made a kernel's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MadeBy {
    /// The wide backend, for an instruction set.
    Wide(cotangent_host::Isa),
    /// Cranelift; with the reason if the wide backend was asked first.
    Cranelift(Option<String>),
}

impl fmt::Display for MadeBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MadeBy::Wide(isa) => write!(f, "wide, {}", isa.name()),
            MadeBy::Cranelift(None) => f.write_str("cranelift"),
            MadeBy::Cranelift(Some(reason)) => write!(f, "cranelift, because {reason}"),
        }
    }
}

/// The measures of one distinct kernel's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Which code generator made it.
    pub made_by: MadeBy,
    /// Bytes of machine code, constants included.
    pub code_bytes: usize,
    /// Time spent on translation and code generation.
    pub compile_time: Duration,
    /// The CLIF text, if [`Options::keep_clif`] asked for it.
    pub clif: Option<String>,
}

/// The code of a batch of kernels.
#[derive(Debug)]
pub struct Compiled {
    functions: Vec<KernelFn>,
    distinct: Vec<usize>,
    stats: Vec<Stats>,
    loops: Vec<LoopFn>,
    /// Bytes of the loops' code.
    loop_bytes: usize,
}

impl Compiled {
    /// The code of each kernel, in the order given.
    pub fn functions(&self) -> &[KernelFn] {
        &self.functions
    }

    /// The code of each loop, in the order given.
    pub fn loops(&self) -> &[LoopFn] {
        &self.loops
    }

    /// The number of kernels that were translated.
    pub fn n_distinct(&self) -> usize {
        self.stats.len()
    }

    /// The measures of a kernel's code, by its place in the batch.
    pub fn stats(&self, kernel: usize) -> &Stats {
        &self.stats[self.distinct[kernel]]
    }

    /// Bytes of all machine code.
    pub fn code_bytes(&self) -> usize {
        self.stats.iter().map(|s| s.code_bytes).sum::<usize>() + self.loop_bytes
    }

    /// Time spent on all kernels.
    pub fn compile_time(&self) -> Duration {
        self.stats.iter().map(|s| s.compile_time).sum()
    }
}

/// Every type, every platform that Cranelift knows: 128-bit vectors.
pub struct CraneliftBackend {
    isa: OwnedTargetIsa,
    options: Options,
}

impl CraneliftBackend {
    /// A backend for the machine it runs on.
    ///
    /// # Errors
    /// [`CodegenError::Environment`] if Cranelift does not know the machine.
    pub fn host() -> Result<Self, CodegenError> {
        CraneliftBackend::new(Options::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// [`CodegenError::Environment`] if Cranelift does not know the machine.
    pub fn new(options: Options) -> Result<Self, CodegenError> {
        let environment = |text: String| CodegenError::Environment(text);
        #[cfg(target_arch = "x86_64")]
        if !std::is_x86_feature_detected!("sse4.1") {
            return Err(environment("vector code needs SSE4.1".into()));
        }
        let mut flags = settings::builder();
        let checked = if cfg!(debug_assertions) { "true" } else { "false" };
        for (name, value) in [
            // Our bodies have no common subexpressions, and the optimizer's scheduling undoes the interleaving.
            ("opt_level", "none"),
            ("enable_verifier", checked),
            ("unwind_info", "false"),
            // A large frame is touched page by page, so that one that the stack has no room for ends at the guard page.
            ("enable_probestack", "true"),
            ("probestack_strategy", "inline"),
            ("is_pic", "false"),
            ("use_colocated_libcalls", "false"),
        ] {
            flags.set(name, value).map_err(|e| environment(format!("flag {name}: {e}")))?;
        }
        let mut builder =
            cranelift_native::builder_with_options(!options.baseline).map_err(|e| environment(e.into()))?;
        if options.baseline && cfg!(target_arch = "x86_64") {
            for feature in ["has_sse3", "has_ssse3", "has_sse41"] {
                builder.enable(feature).map_err(|e| environment(format!("feature {feature}: {e}")))?;
            }
        }
        let isa = builder.finish(settings::Flags::new(flags)).map_err(|e| environment(e.to_string()))?;
        Ok(CraneliftBackend { isa, options })
    }

    fn module(&self) -> JITModule {
        let mut builder = JITBuilder::with_isa(self.isa.clone(), default_libcall_names());
        for &function in LibmFn::ALL {
            builder.symbol(symbol(function, DType::F32), function.address_f32().as_ptr());
            builder.symbol(symbol(function, DType::F64), function.address_f64().as_ptr());
        }
        // What Cranelift itself calls where the machine lacks the instruction.
        let f32s: [(&str, extern "C" fn(f32) -> f32); 4] =
            [("floorf", floorf), ("ceilf", ceilf), ("truncf", truncf), ("nearbyintf", nearbyintf)];
        let f64s: [(&str, extern "C" fn(f64) -> f64); 4] =
            [("floor", floor), ("ceil", ceil), ("trunc", trunc), ("nearbyint", nearbyint)];
        for (name, function) in f32s {
            builder.symbol(name, function as *const u8);
        }
        for (name, function) in f64s {
            builder.symbol(name, function as *const u8);
        }
        builder.symbol("fmaf", fmaf as extern "C" fn(f32, f32, f32) -> f32 as *const u8);
        builder.symbol("fma", fma as extern "C" fn(f64, f64, f64) -> f64 as *const u8);
        JITModule::new(builder)
    }

    fn define(
        &self,
        module: &mut JITModule,
        contexts: &mut (Context, FunctionBuilderContext),
        kernel: &Kernel,
    ) -> Result<(FuncId, Stats), CodegenError> {
        let started = Instant::now();
        let internal = |e: &dyn fmt::Display| CodegenError::Internal(format!("kernel {}: {e}", kernel.name));
        let (context, builder_context) = contexts;
        module.clear_context(context);
        context.func.signature = signature(module, &[I64; 6], None);
        let mut calls = HashMap::new();
        declare_calls(module, context, kernel, &mut calls)?;
        function::translate(kernel, &mut context.func, builder_context, calls, &*self.isa);
        let clif = self.options.keep_clif.then(|| context.func.display().to_string());
        let id = module.declare_anonymous_function(&context.func.signature).map_err(|e| internal(&e))?;
        module.define_function(id, context).map_err(|error| no_code(&format!("the kernel {}", kernel.name), error))?;
        let code_bytes = context.compiled_code().map_or(0, |code| code.code_buffer().len());
        Ok((id, Stats { made_by: MadeBy::Cranelift(None), code_bytes, compile_time: started.elapsed(), clif }))
    }

    /// The loop around the kernels of a body, which have these functions.
    fn define_loop(
        &self,
        module: &mut JITModule,
        contexts: &mut (Context, FunctionBuilderContext),
        body: &LoopBody,
        (kernels, functions): (&[&Kernel], &[FuncId]),
    ) -> Result<(FuncId, usize), CodegenError> {
        let internal = |e: &dyn fmt::Display| CodegenError::Internal(format!("a loop: {e}"));
        let (context, builder_context) = contexts;
        module.clear_context(context);
        context.func.signature = signature(module, &[I64; 2], None);
        let mut callees = Callees::default();
        for act in &body.acts {
            let Act::Kernel { kernel, .. } = *act else { continue };
            if iterate::is_inlined(kernels[kernel]) {
                declare_calls(module, context, kernels[kernel], &mut callees.libm)?;
            } else {
                callees.kernels.insert(kernel, module.declare_func_in_func(functions[kernel], &mut context.func));
            }
        }
        iterate::translate(body, kernels, &mut context.func, builder_context, callees, &*self.isa);
        let id = module.declare_anonymous_function(&context.func.signature).map_err(|e| internal(&e))?;
        module.define_function(id, context).map_err(|error| no_code("a loop", error))?;
        Ok((id, context.compiled_code().map_or(0, |code| code.code_buffer().len())))
    }

    /// Wide code of a kernel, if the wide backend knows how; otherwise Cranelift's, with the reason.
    fn define_wide(
        &self,
        module: &mut JITModule,
        contexts: &mut (Context, FunctionBuilderContext),
        kernel: &Kernel,
        target: &Target,
    ) -> Result<(FuncId, Stats), CodegenError> {
        let started = Instant::now();
        let internal = |e: &dyn fmt::Display| CodegenError::Internal(format!("kernel {}: {e}", kernel.name));
        let bytes = match wide::translate(kernel, target) {
            Ok(bytes) => bytes,
            Err(reason) => {
                let (id, mut stats) = self.define(module, contexts, kernel)?;
                stats.made_by = MadeBy::Cranelift(Some(reason));
                stats.compile_time = started.elapsed();
                return Ok((id, stats));
            }
        };
        let signature = signature(module, &[I64; 6], None);
        let id = module.declare_anonymous_function(&signature).map_err(|e| internal(&e))?;
        module
            .define_function_bytes(id, wide::ALIGNMENT as u64, &bytes, &[])
            .map_err(|error| no_code(&format!("the kernel {}", kernel.name), error))?;
        let code_bytes = bytes.len();
        Ok((id, Stats { made_by: MadeBy::Wide(target.isa()), code_bytes, compile_time: started.elapsed(), clif: None }))
    }

    /// Compiles a batch and the loops around some of its kernels: with wide code for a machine where that is possible, if there is
    /// one.
    fn compile_batch(
        &self,
        kernels: &[&Kernel],
        bodies: &[LoopBody],
        wide: Option<&Target>,
    ) -> Result<Compiled, CodegenError> {
        let mut module = self.module();
        let mut contexts = (module.make_context(), FunctionBuilderContext::new());
        let mut known: HashMap<CodeKey, usize> = HashMap::new();
        let mut ids: Vec<FuncId> = Vec::new();
        let (mut distinct, mut stats) = (Vec::new(), Vec::new());
        let mut failure = None;
        for kernel in kernels {
            debug_assert_eq!(kernel.verify(), Ok(()), "code is made of verified kernels only:\n{kernel}");
            let key = kernel.code_key();
            if let Some(&number) = known.get(&key) {
                distinct.push(number);
                continue;
            }
            let defined = match wide {
                Some(target) => self.define_wide(&mut module, &mut contexts, kernel, target),
                None => self.define(&mut module, &mut contexts, kernel),
            };
            match defined {
                Ok((id, stat)) => {
                    known.insert(key, ids.len());
                    distinct.push(ids.len());
                    ids.push(id);
                    stats.push(stat);
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let (mut loop_ids, mut loop_bytes) = (Vec::with_capacity(bodies.len()), 0);
        if failure.is_none() && !bodies.is_empty() {
            let functions: Vec<FuncId> = distinct.iter().map(|&number| ids[number]).collect();
            for body in bodies {
                match self.define_loop(&mut module, &mut contexts, body, (kernels, &functions)) {
                    Ok((id, n_bytes)) => {
                        loop_ids.push(id);
                        loop_bytes += n_bytes;
                    }
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
        }
        if failure.is_none() {
            failure = module.finalize_definitions().err().map(|e| CodegenError::Environment(e.to_string()));
        }
        // From here on the memory is freed on every path.
        let memory = JitMemory::new(module);
        if let Some(error) = failure {
            return Err(error);
        }
        let functions: Option<Vec<KernelFn>> = kernels
            .iter()
            .zip(&distinct)
            .map(|(kernel, &number)| {
                let code = (ids[number], stats[number].code_bytes);
                KernelFn::of_module(code, kernel.args.len(), kernel.layout().len(), &memory)
            })
            .collect();
        let loops = bodies.iter().zip(&loop_ids);
        let loops: Option<Vec<LoopFn>> =
            loops.map(|(body, &id)| LoopFn::of_module(id, body.n_pointers, &memory)).collect();
        let dropped = || CodegenError::Internal("the module was dropped early".into());
        let (functions, loops) = functions.zip(loops).ok_or_else(dropped)?;
        Ok(Compiled { functions, distinct, stats, loops, loop_bytes })
    }
}

/// Declares the functions of `libm` that a kernel's code calls in the function under way.
fn declare_calls(
    module: &mut JITModule,
    context: &mut Context,
    kernel: &Kernel,
    calls: &mut HashMap<(LibmFn, DType), FuncRef>,
) -> Result<(), CodegenError> {
    for (function, dtype) in function::calls_of(kernel) {
        if calls.contains_key(&(function, dtype)) {
            continue;
        }
        let ty = if dtype == DType::F32 { F32 } else { F64 };
        let callee = signature(module, &vec![ty; function.n_args()], Some(ty));
        let id = module
            .declare_function(&symbol(function, dtype), Linkage::Import, &callee)
            .map_err(|error| CodegenError::Internal(format!("kernel {}: {error}", kernel.name)))?;
        calls.insert((function, dtype), module.declare_func_in_func(id, &mut context.func));
    }
    Ok(())
}

/// Why a kernel, or a loop, has no code in a module.
fn no_code(name: &str, error: ModuleError) -> CodegenError {
    match error {
        ModuleError::Allocation { err } => {
            CodegenError::Memory(format!("the machine code of {name} takes memory that the system refuses: {err}"))
        }
        error => CodegenError::Internal(format!("{name}: {error:?}")),
    }
}

impl Backend for CraneliftBackend {
    fn name(&self) -> &'static str {
        "cranelift"
    }

    fn compile_with_loops(&self, kernels: &[&Kernel], bodies: &[LoopBody]) -> Result<Compiled, CodegenError> {
        self.compile_batch(kernels, bodies, None)
    }
}

/// x86-64 with AVX2 or AVX-512: code of our own for most kernels, in the same module as Cranelift's for the others.
pub struct WideBackend {
    target: Target,
    cranelift: CraneliftBackend,
}

impl WideBackend {
    /// A backend for a machine, which need not be this one; the options are for Cranelift's part.
    ///
    /// # Errors
    /// [`CodegenError::Environment`] if there is no wide code for the machine's instruction set on this system.
    pub fn new(target: &Target, options: Options) -> Result<Self, CodegenError> {
        if wide::Isa::of(target.isa()).is_none() {
            let text = format!("wide code is for x86-64 with AVX2 or AVX-512, not for {}", target.isa().name());
            return Err(CodegenError::Environment(text));
        }
        Ok(WideBackend { target: target.clone(), cranelift: CraneliftBackend::new(options)? })
    }
}

impl Backend for WideBackend {
    fn name(&self) -> &'static str {
        match self.target.isa() {
            cotangent_host::Isa::Avx512 => "wide-avx512",
            _ => "wide-avx2",
        }
    }

    fn compile_with_loops(&self, kernels: &[&Kernel], bodies: &[LoopBody]) -> Result<Compiled, CodegenError> {
        self.cranelift.compile_batch(kernels, bodies, Some(&self.target))
    }
}

/// Which code generator makes the kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendChoice {
    /// The wide one where the machine has AVX2 or AVX-512, Cranelift elsewhere.
    #[default]
    Auto,
    /// Cranelift for every kernel: 128-bit vectors, on every platform.
    Cranelift,
    /// The wide one, or an error where the machine lacks the instructions.
    Wide,
}

impl BackendChoice {
    /// The backend for a machine. Cranelift's code is for the one at hand, whatever the machine.
    ///
    /// # Errors
    /// [`CodegenError::Environment`] if what was asked for makes no code for the machine, or on this one.
    pub fn backend(self, target: &Target, options: Options) -> Result<Box<dyn Backend>, CodegenError> {
        match self {
            BackendChoice::Auto if wide::Isa::of(target.isa()).is_none() => {
                Ok(Box::new(CraneliftBackend::new(options)?))
            }
            BackendChoice::Cranelift => Ok(Box::new(CraneliftBackend::new(options)?)),
            BackendChoice::Auto | BackendChoice::Wide => Ok(Box::new(WideBackend::new(target, options)?)),
        }
    }
}

fn signature(
    module: &JITModule,
    params: &[cranelift_codegen::ir::Type],
    result: Option<cranelift_codegen::ir::Type>,
) -> Signature {
    let mut signature = module.make_signature();
    signature.params.extend(params.iter().map(|&ty| AbiParam::new(ty)));
    signature.returns.extend(result.map(AbiParam::new));
    signature
}

/// The symbol under which a function of the `libm` crate is known to the code.
fn symbol(function: LibmFn, dtype: DType) -> String {
    format!("cotangent_{}_{}", function.name(), dtype.name())
}

extern "C" fn floorf(x: f32) -> f32 {
    x.floor()
}
extern "C" fn ceilf(x: f32) -> f32 {
    x.ceil()
}
extern "C" fn truncf(x: f32) -> f32 {
    x.trunc()
}
extern "C" fn nearbyintf(x: f32) -> f32 {
    x.round_ties_even()
}
extern "C" fn floor(x: f64) -> f64 {
    x.floor()
}
extern "C" fn ceil(x: f64) -> f64 {
    x.ceil()
}
extern "C" fn trunc(x: f64) -> f64 {
    x.trunc()
}
extern "C" fn nearbyint(x: f64) -> f64 {
    x.round_ties_even()
}
extern "C" fn fmaf(x: f32, y: f32, z: f32) -> f32 {
    x.mul_add(y, z)
}
extern "C" fn fma(x: f64, y: f64, z: f64) -> f64 {
    x.mul_add(y, z)
}
