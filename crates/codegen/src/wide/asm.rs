//! A buffer of machine code: instructions through iced's encoder, labels, and a pool of constants behind the code.
//!
//! Errors of the encoder (operands that do not fit an instruction) are kept until [`Assembler::finish`]: they are bugs of
//! this backend, and nobody can go on sensibly where one occurs.

use std::collections::HashMap;

use iced_x86::{Code, Encoder, IcedError, Instruction, MemoryOperand, Register};

/// A place in the code that jumps may name before it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A constant of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolId(usize);

#[derive(Clone, Copy)]
enum Target {
    Label(Label),
    Pool(PoolId),
}

/// Four bytes that hold a distance from the end of their instruction.
struct Fixup {
    at: usize,
    end: usize,
    target: Target,
}

/// Code under construction.
pub(crate) struct Assembler {
    encoder: Encoder,
    len: usize,
    labels: Vec<Option<usize>>,
    fixups: Vec<Fixup>,
    pool: Vec<Vec<u8>>,
    known: HashMap<Vec<u8>, PoolId>,
    error: Option<String>,
}

/// The alignment of the code and of the largest constants.
pub(crate) const ALIGNMENT: usize = 64;

/// `[base + disp]`.
pub(crate) fn at(base: Register, disp: i32) -> MemoryOperand {
    MemoryOperand::with_base_displ_size(base, i64::from(disp), u32::from(disp != 0))
}

/// `[base + index * scale + disp]`.
pub(crate) fn indexed(base: Register, index: Register, scale: u32, disp: i32) -> MemoryOperand {
    MemoryOperand::new(base, index, scale, i64::from(disp), u32::from(disp != 0), false, Register::None)
}

impl Assembler {
    pub(crate) fn new() -> Self {
        Assembler {
            encoder: Encoder::new(64),
            len: 0,
            labels: Vec::new(),
            fixups: Vec::new(),
            pool: Vec::new(),
            known: HashMap::new(),
            error: None,
        }
    }

    /// A constant in memory; equal ones are one.
    pub(crate) fn constant(&mut self, bytes: Vec<u8>) -> PoolId {
        if let Some(&id) = self.known.get(&bytes) {
            return id;
        }
        let id = PoolId(self.pool.len());
        self.known.insert(bytes.clone(), id);
        self.pool.push(bytes);
        id
    }

    /// The memory operand of a constant. The instruction it is used in must be emitted by [`Assembler::with_pool`].
    pub(crate) fn pool_operand(&self, broadcast: bool) -> MemoryOperand {
        let somewhere = self.len as i64;
        MemoryOperand::new(Register::RIP, Register::None, 1, somewhere, 8, broadcast, Register::None)
    }

    /// Encodes an instruction; returns where it starts.
    pub(crate) fn emit(&mut self, instruction: Result<Instruction, IcedError>) -> usize {
        let start = self.len;
        match instruction.and_then(|i| self.encoder.encode(&i, start as u64)) {
            Ok(n) => self.len += n,
            Err(error) => self.fail(error.to_string()),
        }
        start
    }

    /// Notes that no sensible code can be made.
    pub(crate) fn fail(&mut self, text: String) {
        self.error.get_or_insert(text);
    }

    /// Encodes an instruction one of whose operands is [`Assembler::pool_operand`].
    pub(crate) fn with_pool(&mut self, instruction: Result<Instruction, IcedError>, id: PoolId) {
        let start = self.emit(instruction);
        let at = start + self.encoder.get_constant_offsets().displacement_offset();
        self.fixups.push(Fixup { at, end: self.len, target: Target::Pool(id) });
    }

    pub(crate) fn op0(&mut self, code: Code) {
        self.emit(Ok(Instruction::with(code)));
    }

    pub(crate) fn op1(&mut self, code: Code, a: Register) {
        self.emit(Instruction::with1(code, a));
    }

    /// Two registers.
    pub(crate) fn rr(&mut self, code: Code, a: Register, b: Register) {
        self.emit(Instruction::with2(code, a, b));
    }

    /// A register and memory.
    pub(crate) fn rm(&mut self, code: Code, a: Register, b: MemoryOperand) {
        self.emit(Instruction::with2(code, a, b));
    }

    /// Memory and a register.
    pub(crate) fn mr(&mut self, code: Code, a: MemoryOperand, b: Register) {
        self.emit(Instruction::with2(code, a, b));
    }

    /// A register and a number.
    pub(crate) fn ri(&mut self, code: Code, a: Register, b: i32) {
        self.emit(Instruction::with2(code, a, b));
    }

    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label stands here.
    pub(crate) fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.len);
    }

    /// A new label that stands here.
    pub(crate) fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// A jump, conditional or not, by its code with a 32-bit distance.
    pub(crate) fn jump(&mut self, code: Code, label: Label) {
        self.emit(Instruction::with_branch(code, self.len as u64));
        self.fixups.push(Fixup { at: self.len - 4, end: self.len, target: Target::Label(label) });
    }

    /// The address of a constant.
    pub(crate) fn address_of(&mut self, register: Register, id: PoolId) {
        let operand = self.pool_operand(false);
        self.with_pool(Instruction::with2(Code::Lea_r64_m, register, operand), id);
    }

    /// The code with its constants.
    ///
    /// # Errors
    /// The first instruction that could not be encoded.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, String> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut bytes = self.encoder.take_buffer();
        let mut places = vec![0; self.pool.len()];
        let mut order: Vec<usize> = (0..self.pool.len()).collect();
        // The largest first, each at a multiple of its size.
        order.sort_by_key(|&id| std::cmp::Reverse(self.pool[id].len()));
        for id in order {
            let size = self.pool[id].len().max(1);
            bytes.resize(bytes.len().next_multiple_of(size.next_power_of_two().min(ALIGNMENT)), 0);
            places[id] = bytes.len();
            bytes.extend(&self.pool[id]);
        }
        for Fixup { at, end, target } in &self.fixups {
            let place = match target {
                Target::Label(label) => self.labels[label.0].ok_or("a jump leads nowhere")?,
                Target::Pool(id) => places[id.0],
            };
            let distance = place as i64 - *end as i64;
            bytes[*at..at + 4].copy_from_slice(&(distance as i32).to_le_bytes());
        }
        Ok(bytes)
    }
}
