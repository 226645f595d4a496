//! The code of the built-in guest.
//!
//! One loop, entered by every vCPU with RDI at its block. It calls nothing, has no stack and takes no
//! interrupts; all that it must not lose lies in registers, so a check after a migration compares
//! memory with registers that travelled apart from it. Registers:
//!
//! | | |
//! |---|---|
//! | rdi | the vCPU's block |
//! | r8  | TSC of the next beat |
//! | r9  | TSC of the next write |
//! | r10 | the next page to write |
//! | r11 | the count that the current lap of the working set writes |
//! | r12 | the next page to check |
//! | r13 | the check asked for, 0: only the background one |
//! | r14 | the next page to fill; `END` when all is filled |
//! | r15 | GOLDEN |
//! | rbp | STAMP |
//! | rax, rbx, rcx, rdx, rsi | scratch |
//!
//! The labels carry the crate's version: two versions may end up in one program.
//!
//! Deeds come in slices short enough that a beat of 1 kHz keeps its time.

use std::arch::global_asm;

use super::layout::{
    BLOCKS, COMMAND_OFF, Doorbell, GOLDEN, PORT_COMMAND, PORT_DOORBELL, PORT_SERIAL, PORT_WAIT,
    STAMP, words,
};

/// Pages filled or checked on request between two looks at the clock.
const SLICE: u32 = 16;
/// Of this many writes, one is followed by a background check of a page (a mask).
const CHECK_MASK: u32 = 3;

/// What it prints, as the assembler and Rust both write it.
macro_rules! text_started {
    () => {
        "dwcp/pulse: started\\r\\n"
    };
}
macro_rules! text_filled {
    () => {
        "dwcp/pulse: memory filled\\r\\n"
    };
}

global_asm!(
    ".pushsection .rodata.dwcp_pulse, \"a\", @progbits",
    ".balign 16",
    concat!(".hidden dwcp_pulse_start_", env!("CARGO_PKG_VERSION")),
    concat!(".global dwcp_pulse_start_", env!("CARGO_PKG_VERSION")),
    concat!("dwcp_pulse_start_", env!("CARGO_PKG_VERSION"), ":"),
    "    movabs r15, {golden}",
    "    movabs rbp, {stamp}",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    mov r8, rax", // the first beat at once
    "    mov r9, rax",
    "    mov r10, [rdi + {first_page}]",
    "    mov r11d, 1",
    "    mov r12, r10",
    "    xor r13d, r13d",
    "    mov r14, r10",
    "    lea rbx, [rip + 95f]",
    "    lea rcx, [rip + 10f]",
    "    jmp 85f", // say so, come back to rcx
    // ---- the loop: look at the clock, do what is due ----
    "10:",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    mov rsi, rax", // now
    "    cmp rsi, r8",
    "    jb 20f",
    // A beat: next one a period from now, so that a pause is not made up for.
    "    mov r8, rsi",
    "    add r8, [rdi + {per_beat}]",
    "    inc qword ptr [rdi + {beats}]",
    "    mov eax, {beat}",
    "    mov edx, {doorbell}",
    "    out dx, eax",
    "    mov edx, {command}",
    "    in eax, dx",
    "    cmp eax, {off}",
    "    je 90f",
    "    cmp rax, [rdi + {checked}]", // a 32-bit `in` clears the upper half
    "    je 10b",
    "    cmp rax, r13",
    "    je 10b",
    "    mov r13, rax", // a new check: from the first page
    "    mov r12, [rdi + {first_page}]",
    "    jmp 10b",
    // Still filling?
    "20:",
    "    mov ecx, {slice}",
    "    cmp r14, [rdi + {end}]",
    "    jae 40f",
    "21:",
    "    mov rbx, r14",
    "    shl rbx, 9",
    "    imul rbx, r15", // word 0 of the page
    "    mov rdx, r14",
    "    shl rdx, 12",
    "    mov qword ptr [rdx], 0", // never written since
    "    mov eax, 511",
    "22:",
    "    add rbx, r15",
    "    add rdx, 8",
    "    mov [rdx], rbx",
    "    dec eax",
    "    jnz 22b",
    "    inc r14",
    "    inc qword ptr [rdi + {filled}]",
    "    cmp r14, [rdi + {end}]",
    "    jae 23f",
    "    dec ecx",
    "    jnz 21b",
    "    jmp 10b",
    "23:",
    "    mov eax, {filled_bell}",
    "    mov edx, {doorbell}",
    "    out dx, eax",
    "    lea rbx, [rip + 96f]",
    "    lea rcx, [rip + 24f]",
    "    jmp 85f",
    "24:",
    "    rdtsc", // writes start from here, with nothing to make up for
    "    shl rdx, 32",
    "    or rax, rdx",
    "    mov r9, rax",
    "    jmp 10b",
    // A check that was asked for: a slice of it, then the clock again.
    "40:",
    "    test r13, r13",
    "    jz 50f",
    "41:",
    "    cmp r12, [rdi + {end}]",
    "    jae 42f",
    "    lea rax, [rip + 43f]",
    "    jmp 70f", // check page r12, come back to rax
    "43:",
    "    dec ecx",
    "    jnz 41b",
    "    jmp 44f",
    "42:",
    "    mov [rdi + {checked}], r13",
    "    xor r13d, r13d",
    "    mov r12, [rdi + {first_page}]",
    "    mov eax, {checked_bell}",
    "    mov edx, {doorbell}",
    "    out dx, eax",
    "44:",
    "    rdtsc", // the check used rsi
    "    shl rdx, 32",
    "    or rax, rdx",
    "    mov rsi, rax",
    // A write of the working set, when it is due.
    "50:",
    "    mov rbx, [rdi + {first_page}]",
    "    cmp rbx, [rdi + {working_end}]",
    "    je 60f", // nothing to write, ever
    "    mov rcx, [rdi + {per_page}]",
    "    test rcx, rcx",
    "    jz 53f",
    "    cmp rsi, r9",
    "    jb 60f",
    "    add r9, rcx",
    // Never make up for more than the wait between two beats; spinning, for nothing at all.
    "    mov rdx, rsi",
    "    cmp qword ptr [rdi + {spin}], 0",
    "    jne 51f",
    "    sub rdx, [rdi + {per_beat}]",
    "51:",
    "    cmp r9, rdx",
    "    jae 53f",
    "    mov r9, rdx",
    "53:",
    "    mov rdx, r10",
    "    shl rdx, 12",
    "    lea rbx, [r11 - 1]",
    "    cmp [rdx], rbx", // it must hold the count of the last lap
    "    je 55f",
    "    mov rbx, r10",
    "    lea rax, [rip + 55f]",
    "    jmp 80f", // report page rbx, come back to rax
    "55:",
    "    mov rdx, r10",
    "    shl rdx, 12",
    "    mov [rdx], r11",
    "    mov rbx, r10",
    "    shl rbx, 9",
    "    inc rbx",
    "    imul rbx, r15",
    "    mov rax, r11",
    "    imul rax, rbp",
    "    add rbx, rax",
    "    mov [rdx + 8], rbx",
    "    mov rax, [rdi + {written}]",
    "    inc rax",
    "    mov [rdi + {written}], rax",
    "    inc r10",
    "    cmp r10, [rdi + {working_end}]",
    "    jb 56f",
    "    mov r10, [rdi + {first_page}]",
    "    inc r11",
    "56:",
    // Every few writes, one page of the background check, unless one was asked for.
    "    test al, {check_mask}",
    "    jnz 10b",
    "    test r13, r13",
    "    jnz 10b",
    "    lea rax, [rip + 57f]",
    "    jmp 70f",
    "57:",
    "    cmp r12, [rdi + {end}]",
    "    jb 10b",
    "    mov r12, [rdi + {first_page}]",
    "    inc qword ptr [rdi + {laps}]",
    "    jmp 10b",
    // Nothing to do before the next beat or write.
    "60:",
    "    test r13, r13",
    "    jnz 10b",
    "    cmp qword ptr [rdi + {spin}], 0",
    "    jne 61f",
    "    mov rax, r8",
    "    sub rax, rsi",
    "    jbe 10b",
    "    mov ecx, 0xffffffff",
    "    cmp rax, rcx",
    "    cmova rax, rcx",
    "    mov edx, {wait}",
    "    out dx, eax",
    "    jmp 10b",
    "61:",
    "    pause",
    "    jmp 10b",
    // ---- check page r12 and step over it; returns to rax; uses rbx, rdx, rsi ----
    "70:",
    "    xor ebx, ebx", // a page outside the working set was never written
    "    cmp r12, [rdi + {working_end}]",
    "    jae 71f",
    "    mov rbx, r11", // behind the writer: this lap's count, before it: the last one's
    "    cmp r12, r10",
    "    jb 71f",
    "    dec rbx",
    "71:",
    "    mov rdx, r12",
    "    shl rdx, 12",
    "    cmp [rdx], rbx",
    "    jne 75f",
    "    imul rbx, rbp",
    "    add rdx, 8",
    "    mov rsi, r12",
    "    shl rsi, 9",
    "    inc rsi",
    "    imul rsi, r15",
    "    add rbx, rsi",
    "    cmp [rdx], rbx",
    "    jne 75f",
    "    mov ebx, 255", // words 2 to 511, two at a time
    "72:",
    "    add rsi, r15",
    "    cmp [rdx + 8], rsi",
    "    jne 75f",
    "    add rsi, r15",
    "    add rdx, 16",
    "    cmp [rdx], rsi",
    "    jne 75f",
    "    dec ebx",
    "    jnz 72b",
    "    inc r12",
    "    jmp rax",
    "75:",
    "    mov rbx, r12",
    "    inc r12",
    // ---- count page rbx as a fault, report the first; returns to rax ----
    "80:",
    "    inc qword ptr [rdi + {faults}]",
    "    cmp qword ptr [rdi + {faults}], 1",
    "    jne 81f",
    "    mov [rdi + {first_fault}], rbx",
    "    mov rbx, rax",
    "    mov eax, {fault}",
    "    mov edx, {doorbell}",
    "    out dx, eax",
    "    mov rax, rbx",
    "81:",
    "    jmp rax",
    // ---- the first vCPU prints the text at rbx on the serial port; returns to rcx; uses rax, rdx ----
    "85:",
    "    cmp rdi, {blocks}",
    "    jne 87f",
    "    mov edx, {serial}",
    "86:",
    "    mov al, [rbx]",
    "    test al, al",
    "    jz 87f",
    "    out dx, al",
    "    inc rbx",
    "    jmp 86b",
    "87:",
    "    jmp rcx",
    // ---- asked to power off ----
    "90:",
    "    mov eax, {off_bell}",
    "    mov edx, {doorbell}",
    "    out dx, eax",
    "91:",
    "    mov eax, 0xffffffff",
    "    mov edx, {wait}",
    "    out dx, eax",
    "    jmp 91b",
    "95:",
    concat!("    .asciz \"", text_started!(), "\""),
    "96:",
    concat!("    .asciz \"", text_filled!(), "\""),
    concat!(".hidden dwcp_pulse_end_", env!("CARGO_PKG_VERSION")),
    concat!(".global dwcp_pulse_end_", env!("CARGO_PKG_VERSION")),
    concat!("dwcp_pulse_end_", env!("CARGO_PKG_VERSION"), ":"),
    ".popsection",
    golden = const GOLDEN.cast_signed(),
    stamp = const STAMP.cast_signed(),
    first_page = const words::FIRST,
    end = const words::END,
    working_end = const words::WORKING_END,
    per_page = const words::TICKS_PER_PAGE,
    per_beat = const words::TICKS_PER_BEAT,
    spin = const words::SPIN,
    beats = const words::BEATS,
    written = const words::WRITTEN,
    laps = const words::LAPS,
    checked = const words::CHECKED,
    faults = const words::FAULTS,
    first_fault = const words::FIRST_FAULT,
    filled = const words::FILLED,
    doorbell = const PORT_DOORBELL,
    command = const PORT_COMMAND,
    wait = const PORT_WAIT,
    serial = const PORT_SERIAL,
    blocks = const BLOCKS,
    beat = const Doorbell::Beat as u32,
    filled_bell = const Doorbell::Filled as u32,
    checked_bell = const Doorbell::Checked as u32,
    fault = const Doorbell::Fault as u32,
    off_bell = const Doorbell::Off as u32,
    off = const COMMAND_OFF,
    slice = const SLICE,
    check_mask = const CHECK_MASK,
);

unsafe extern "C" {
    #[link_name = concat!("dwcp_pulse_start_", env!("CARGO_PKG_VERSION"))]
    static START: u8;
    #[link_name = concat!("dwcp_pulse_end_", env!("CARGO_PKG_VERSION"))]
    static END: u8;
}

/// The guest's code. It is position-independent and begins with its entry.
pub(super) fn code() -> &'static [u8] {
    let (start, end) = (&raw const START, &raw const END);
    // SAFETY: both labels stand in the section emitted above, `END` behind `START`; the section is
    // read-only and lives as long as the program.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{BLOCKS, CODE, TEXTS};

    #[test]
    fn the_texts_are_those_of_the_simulation() {
        for text in TEXTS {
            let whole = [text.as_bytes(), &[0]].concat();
            assert!(
                super::code().windows(whole.len()).any(|w| w == whole),
                "{text}"
            );
        }
    }

    #[test]
    fn the_code_fits_its_place() {
        let len = super::code().len() as u64;
        assert!(len > 100 && CODE + len <= BLOCKS, "{len} bytes");
    }
}
