//! Functions that are called element by element instead of being expanded: those of the `libm` crate.
//!
//! The interpreter and the generated code call the very same function, so their bits agree by construction.

/// A function of one or two floats from the `libm` crate, in the precision of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LibmFn {
    /// e to the power of `x`.
    Exp,
    /// e to the power of `x`, minus 1.
    Expm1,
    /// Natural logarithm.
    Log,
    /// Natural logarithm of `1 + x`.
    Log1p,
    /// Hyperbolic tangent.
    Tanh,
    /// The error function.
    Erf,
    /// 1 minus the error function.
    Erfc,
    /// Sine of an angle in radians.
    Sin,
    /// Cosine of an angle in radians.
    Cos,
    /// `x` to the power of `y`.
    Pow,
}

/// The address of a function as generated code calls it: C ABI, floats in and out.
#[derive(Clone, Copy, Debug)]
pub enum LibmAddress {
    /// One f32 argument.
    F32(extern "C" fn(f32) -> f32),
    /// Two f32 arguments.
    F32x2(extern "C" fn(f32, f32) -> f32),
    /// One f64 argument.
    F64(extern "C" fn(f64) -> f64),
    /// Two f64 arguments.
    F64x2(extern "C" fn(f64, f64) -> f64),
}

impl LibmAddress {
    /// The address as a pointer, for a symbol table.
    pub fn as_ptr(self) -> *const u8 {
        match self {
            LibmAddress::F32(f) => f as *const u8,
            LibmAddress::F32x2(f) => f as *const u8,
            LibmAddress::F64(f) => f as *const u8,
            LibmAddress::F64x2(f) => f as *const u8,
        }
    }
}

macro_rules! functions {
    ($($variant:ident, $name:literal, $f32:ident, $f64:ident;)*) => {
        $(
            extern "C" fn $f32(x: f32) -> f32 { libm::$f32(x) }
            extern "C" fn $f64(x: f64) -> f64 { libm::$f64(x) }
        )*
        extern "C" fn powf(x: f32, y: f32) -> f32 { libm::powf(x, y) }
        extern "C" fn pow(x: f64, y: f64) -> f64 { libm::pow(x, y) }

        impl LibmFn {
            /// All functions.
            pub const ALL: &'static [LibmFn] = &[$(LibmFn::$variant,)* LibmFn::Pow];

            /// The name in printed bodies.
            pub fn name(self) -> &'static str {
                match self { $(LibmFn::$variant => $name,)* LibmFn::Pow => "pow" }
            }

            /// The function in single precision.
            pub fn address_f32(self) -> LibmAddress {
                match self { $(LibmFn::$variant => LibmAddress::F32($f32),)* LibmFn::Pow => LibmAddress::F32x2(powf) }
            }

            /// The function in double precision.
            pub fn address_f64(self) -> LibmAddress {
                match self { $(LibmFn::$variant => LibmAddress::F64($f64),)* LibmFn::Pow => LibmAddress::F64x2(pow) }
            }
        }
    };
}

functions! {
    Exp, "exp", expf, exp;
    Expm1, "expm1", expm1f, expm1;
    Log, "log", logf, log;
    Log1p, "log1p", log1pf, log1p;
    Tanh, "tanh", tanhf, tanh;
    Erf, "erf", erff, erf;
    Erfc, "erfc", erfcf, erfc;
    Sin, "sin", sinf, sin;
    Cos, "cos", cosf, cos;
}

impl LibmFn {
    /// Number of arguments.
    pub fn n_args(self) -> usize {
        if self == LibmFn::Pow { 2 } else { 1 }
    }

    /// The value in single precision; the second argument is ignored by functions of one.
    pub fn eval_f32(self, x: f32, y: f32) -> f32 {
        match self.address_f32() {
            LibmAddress::F32(f) => f(x),
            LibmAddress::F32x2(f) => f(x, y),
            LibmAddress::F64(_) | LibmAddress::F64x2(_) => f32::NAN,
        }
    }

    /// The value in double precision; the second argument is ignored by functions of one.
    pub fn eval_f64(self, x: f64, y: f64) -> f64 {
        match self.address_f64() {
            LibmAddress::F64(f) => f(x),
            LibmAddress::F64x2(f) => f(x, y),
            LibmAddress::F32(_) | LibmAddress::F32x2(_) => f64::NAN,
        }
    }
}
