//! Machine code in print.

use std::collections::BTreeMap;
use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, FastFormatter, Instruction, Mnemonic, OpKind};

use crate::memory::KernelFn;

impl KernelFn {
    /// The instructions, a line for each, jumps to labels; `None` for other code than that of x86-64. Constants behind the code
    /// are left out.
    pub fn listing(&self) -> Option<String> {
        cfg!(target_arch = "x86_64").then(|| listing(self.bytes()))
    }
}

fn listing(code: &[u8]) -> String {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let (mut instructions, mut labels, mut farthest): (Vec<Instruction>, BTreeMap<u64, usize>, u64) =
        Default::default();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let always = instruction.mnemonic() == Mnemonic::Jmp;
        if instruction.op0_kind() == OpKind::NearBranch64 && instruction.mnemonic() != Mnemonic::Call {
            labels.insert(instruction.near_branch_target(), 0);
            farthest = farthest.max(instruction.near_branch_target());
        }
        let ends = always || instruction.mnemonic() == Mnemonic::Ret;
        let next = instruction.next_ip();
        instructions.push(instruction);
        // Nothing jumps to what lies behind, and nothing falls into it: constants.
        if ends && next > farthest {
            break;
        }
    }
    for (number, label) in labels.values_mut().enumerate() {
        *label = number;
    }
    let mut formatter = FastFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(true);
    let (mut out, mut line) = (String::new(), String::new());
    for instruction in &instructions {
        if let Some(label) = labels.get(&instruction.ip()) {
            let _ = writeln!(out, "L{label}:");
        }
        line.clear();
        formatter.format(instruction, &mut line);
        let target =
            labels.get(&instruction.near_branch_target()).filter(|_| instruction.op0_kind() == OpKind::NearBranch64);
        if let (Some(label), Some((what, _))) = (target, line.split_once(' ')) {
            line = format!("{what} L{label}");
        }
        let _ = writeln!(out, "  {line}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_go_to_labels_and_constants_are_left_out() {
        // again: dec rax; jne again; ret; four bytes of a constant.
        let code = [0x48, 0xff, 0xc8, 0x75, 0xfb, 0xc3, 0x12, 0x34, 0x56, 0x78];
        assert_eq!(listing(&code), "L0:\n  dec rax\n  jne L0\n  ret\n");
        // jmp over; nop; over: ret
        assert_eq!(listing(&[0xeb, 0x01, 0x90, 0xc3]), "  jmp L0\n  nop\nL0:\n  ret\n");
        assert_eq!(listing(&[]), "");
    }
}
