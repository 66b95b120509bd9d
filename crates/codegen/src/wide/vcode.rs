//! Straight-line vector code before registers are assigned.
//!
//! A [`Vcode`] is what runs between two labels: instructions over virtual registers, each defined once (accumulators,
//! which are pinned to a register of the machine, excepted). A register may have a [`Home`], a place in memory that holds
//! its value anyhow: a constant, a slot of the frame, an element of an argument. It needs no instruction to be defined,
//! can be an instruction's memory operand, and costs nothing to be evicted.

use smallvec::SmallVec;

use crate::wide::isa::{Isa, Op};

/// A virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reg(pub(crate) u32);

impl Reg {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What kind of register of the machine a value lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Vector,
    /// A mask register (AVX-512).
    Mask,
}

/// A constant in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    /// The same in every lane; `size` is 4 or 8 bytes.
    Splat { bits: u64, size: u8 },
    /// `start`, `start + 1`, ... in lanes of 4 or 8 bytes.
    Iota { size: u8, start: u8 },
    /// Bits of a mask register.
    Bits(u16),
}

/// An element of an argument: of the numbered site, so many elements after the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) site: usize,
    pub(crate) after: usize,
}

/// Where in memory a value lies anyhow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Const(Constant),
    /// A slot of the frame, at so many bytes from the stack pointer.
    Frame(i32),
    /// A slot of the frame that changes from one turn of a loop to the next.
    Cell(i32),
    /// A whole vector of an argument.
    Argument(Place),
}

/// What is known of a virtual register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegInfo {
    pub(crate) class: Class,
    /// Bytes of the vector.
    pub(crate) width: u8,
    /// Bytes of a lane of a mask that is a vector (AVX2).
    pub(crate) lane: u8,
    pub(crate) home: Option<Home>,
    /// The register of the machine that holds it all along.
    pub(crate) pinned: Option<u8>,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// An instruction of the table.
    Op(Op),
    /// `args[0] * args[1] + args[2]`, by the 132 form of the three that follow each other in the table.
    Fma(Op),
    /// An instruction of the table with one operand, which is memory.
    Load(Op, Place),
    /// The byte at a place in every 32-bit lane.
    BroadcastByte(Place),
    /// The number that an index site stands at, in every lane; `size` is 4 or 8.
    Index(Place, u8),
    /// Elements under a mask of 4- or 8-byte lanes (AVX2); `args[0]` is the mask.
    LoadMasked(Place, u8),
    /// At most `width / 4` bytes, as many as the frame's word says, zero-extended to 32-bit lanes (AVX2).
    LoadBytes(Place, i32),
    /// Stores a vector of 4- or 8-byte lanes, under the mask if there is one (AVX-512).
    Store(Place, u8),
    /// Stores a whole vector past the caches; its place is aligned.
    Stream(Place),
    /// Stores under a mask of 4- or 8-byte lanes (AVX2); `args[1]` is the mask.
    StoreMasked(Place, u8),
    /// Stores so many low bytes of an xmm register (4, 8 or 16), under the mask if there is one.
    StoreBytes(Place, u8),
    /// Stores as many low bytes of an xmm register as the frame's word says (AVX2).
    StoreSomeBytes(Place, i32),
    /// Stores the lowest lane of so many bytes; of a mask (or a vector's lane) 0 or 1.
    StoreLane(Place, u8),
    /// Stores to a slot of the frame.
    Keep(i32),
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub(crate) what: What,
    pub(crate) dst: Option<Reg>,
    pub(crate) args: SmallVec<[Reg; 3]>,
    /// Bytes of the widest operand.
    pub(crate) width: u8,
    pub(crate) imm: u8,
    /// The mask that the result is merged under (with `zero`: zeroed).
    pub(crate) mask: Option<Reg>,
    pub(crate) zero: bool,
}

/// Straight-line code being built.
pub(crate) struct Vcode {
    pub(crate) isa: Isa,
    /// Elements of a group.
    pub(crate) lanes: usize,
    pub(crate) regs: Vec<RegInfo>,
    pub(crate) insts: Vec<Inst>,
    known: Vec<(Constant, u8, Reg)>,
}

impl Vcode {
    pub(crate) fn new(isa: Isa, lanes: usize) -> Self {
        Vcode { isa, lanes, regs: Vec::new(), insts: Vec::new(), known: Vec::new() }
    }

    /// Bytes of a vector of a group's elements of so many bytes.
    pub(crate) fn width(&self, size: usize) -> u8 {
        (self.lanes * size) as u8
    }

    pub(crate) fn reg(&mut self, info: RegInfo) -> Reg {
        self.regs.push(info);
        Reg(self.regs.len() as u32 - 1)
    }

    pub(crate) fn vector(&mut self, width: u8) -> Reg {
        self.reg(RegInfo { class: Class::Vector, width, lane: 0, home: None, pinned: None })
    }

    /// A register whose value lies in memory.
    pub(crate) fn housed(&mut self, class: Class, width: u8, lane: u8, home: Home) -> Reg {
        self.reg(RegInfo { class, width, lane, home: Some(home), pinned: None })
    }

    pub(crate) fn info(&self, reg: Reg) -> &RegInfo {
        &self.regs[reg.index()]
    }

    pub(crate) fn width_of(&self, reg: Reg) -> u8 {
        self.info(reg).width
    }

    /// A constant; equal ones of a width are one register.
    pub(crate) fn constant(&mut self, constant: Constant, width: u8) -> Reg {
        let same = |(c, w, _): &&(Constant, u8, Reg)| *c == constant && *w == width;
        if let Some((_, _, reg)) = self.known.iter().find(same) {
            return *reg;
        }
        let class = if matches!(constant, Constant::Bits(_)) { Class::Mask } else { Class::Vector };
        let reg = self.housed(class, width, 0, Home::Const(constant));
        self.known.push((constant, width, reg));
        reg
    }

    /// The 32-bit number in every lane.
    pub(crate) fn word(&mut self, bits: u32) -> Reg {
        let width = self.width(4);
        self.constant(Constant::Splat { bits: u64::from(bits), size: 4 }, width)
    }

    pub(crate) fn push(&mut self, what: What, dst: Option<Reg>, args: &[Reg], width: u8) -> &mut Inst {
        let args = SmallVec::from_slice(args);
        self.insts.push(Inst { what, dst, args, width, imm: 0, mask: None, zero: false });
        let last = self.insts.len() - 1;
        &mut self.insts[last]
    }

    /// An instruction with a vector result of a width.
    pub(crate) fn op_to(&mut self, result: u8, op: Op, args: &[Reg], width: u8, imm: u8) -> Reg {
        let dst = self.vector(result);
        self.push(What::Op(op), Some(dst), args, width).imm = imm;
        dst
    }

    /// An instruction whose operands and result have one width.
    pub(crate) fn op(&mut self, op: Op, args: &[Reg]) -> Reg {
        let width = self.width_of(args[0]);
        self.op_to(width, op, args, width, 0)
    }

    /// The same with an immediate.
    pub(crate) fn op_imm(&mut self, op: Op, args: &[Reg], imm: u8) -> Reg {
        let width = self.width_of(args[0]);
        self.op_to(width, op, args, width, imm)
    }

    /// An instruction with a mask as its result: in a mask register, or (AVX2) in lanes of so many bytes.
    pub(crate) fn mask_op(&mut self, op: Op, args: &[Reg], imm: u8, lane: u8) -> Reg {
        let width = self.width_of(args[0]);
        let class = if self.isa == Isa::Avx512 { Class::Mask } else { Class::Vector };
        let lane = if class == Class::Mask { 0 } else { lane };
        let dst = self.reg(RegInfo { class, width, lane, home: None, pinned: None });
        self.push(What::Op(op), Some(dst), args, width).imm = imm;
        dst
    }

    /// A comparison whose result is only cut down by a mask is made under that mask: no instruction for the cut.
    fn compare_under_masks(&mut self) {
        if self.isa != Isa::Avx512 {
            return;
        }
        let mut n_uses = vec![0; self.regs.len()];
        let mut made: Vec<Option<usize>> = vec![None; self.regs.len()];
        for (i, inst) in self.insts.iter().enumerate() {
            inst.args.iter().chain(&inst.mask).for_each(|arg| n_uses[arg.index()] += 1);
            inst.dst.into_iter().for_each(|dst| made[dst.index()] = Some(i));
        }
        let mut needless = Vec::new();
        for cut in 0..self.insts.len() {
            let inst = &self.insts[cut];
            let (What::Op(Op::Kand), Some(dst), &[a, b]) = (&inst.what, inst.dst, inst.args.as_slice()) else {
                continue;
            };
            let compares = |&(of, mask): &(Reg, Reg)| {
                let made_here = made[of.index()].filter(|_| n_uses[of.index()] == 1 && of != mask);
                made_here.filter(|&i| {
                    let inst = &self.insts[i];
                    let is_compare = matches!(inst.what, What::Op(Op::CmpPs | Op::CmpPd | Op::PcmpD | Op::PcmpQ));
                    // What nobody here makes is there from the start.
                    is_compare && inst.mask.is_none() && made[mask.index()].is_none_or(|made| made < i)
                })
            };
            let found = [(a, b), (b, a)].into_iter().find_map(|pair| Some((compares(&pair)?, pair.1)));
            if let Some((i, mask)) = found {
                (self.insts[i].mask, self.insts[i].dst) = (Some(mask), Some(dst));
                made[dst.index()] = Some(i);
                needless.push(cut);
            }
        }
        for cut in needless.into_iter().rev() {
            self.insts.remove(cut);
        }
    }

    /// Removes instructions whose results nobody uses, or that others can do besides.
    pub(crate) fn prune(&mut self) {
        self.compare_under_masks();
        let mut used = vec![false; self.regs.len()];
        let mut kept = vec![true; self.insts.len()];
        for (i, inst) in self.insts.iter().enumerate().rev() {
            let needed = match inst.dst {
                None => true,
                Some(dst) => used[dst.index()] || self.regs[dst.index()].pinned.is_some(),
            };
            kept[i] = needed;
            if needed {
                for arg in inst.args.iter().chain(&inst.mask) {
                    used[arg.index()] = true;
                }
            }
        }
        let mut kept = kept.into_iter();
        self.insts.retain(|_| kept.next().unwrap_or(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two comparisons and both together: the second is made under the mask of the first, unless somebody else reads it.
    #[test]
    fn a_comparison_that_is_only_cut_down_is_made_under_the_mask() {
        for read_elsewhere in [false, true] {
            let mut code = Vcode::new(Isa::Avx512, 16);
            let (a, b) = (code.vector(64), code.vector(64));
            let first = code.mask_op(Op::CmpPs, &[a, b], 1, 0);
            let second = code.mask_op(Op::CmpPs, &[b, a], 1, 0);
            let both = code.mask_op(Op::Kand, &[first, second], 0, 0);
            for kept in [first, both].into_iter().chain(read_elsewhere.then_some(second)) {
                code.push(What::Keep(0), None, &[kept], 0);
            }
            code.prune();
            let under: Vec<Option<Reg>> = code.insts.iter().filter(|i| i.dst.is_some()).map(|i| i.mask).collect();
            let expected: &[Option<Reg>] = if read_elsewhere { &[None, None, None] } else { &[None, Some(first)] };
            assert_eq!(under, expected, "{read_elsewhere}");
        }
    }
}
