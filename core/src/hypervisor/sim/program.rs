//! What a simulated vCPU does: the program of the built-in guest, in Rust.
//!
//! Kept step for step beside `guest/program.rs`; the contents of pages are those of `guest/layout.rs`,
//! so either program checks what the other wrote.

use super::log::SimLog;
use crate::error::{DWCPError, Result};
use crate::guest::{
    BLOCKS, COMMAND_OFF, Doorbell, GOLDEN, PORT_COMMAND, PORT_DOORBELL, PORT_SERIAL, PORT_WAIT,
    STAMP, TEXTS, words,
};
use crate::hypervisor::{Reader, Writer};
use crate::memory::{GuestRam, PAGE_SIZE};

/// Pages filled or checked between two looks at the clock.
const SLICE: u32 = 16;

/// What the vCPU does next.
pub(super) enum Step {
    /// Go round again.
    Again,
    Out(u16, u32),
    In(u16),
}

/// What the guest would have in registers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Program {
    block: u64,
    next_beat: u64,
    next_write: u64,
    cursor: u64,
    lap: u64,
    check_at: u64,
    check: u64,
    fill_at: u64,
    /// 0: the loop; 1: a beat was rung, the command is to be read; 2: it was read; 3: off.
    phase: u64,
    /// The text being printed, counted from 1; 0: none. And how far it is.
    text: u64,
    printed: u64,
}

impl Program {
    pub(super) fn start(ram: &GuestRam, block: u64, now: u64) -> Result<Self> {
        let [first] = ram.read_words(block + words::FIRST as u64)?;
        Ok(Self {
            block,
            next_beat: now,
            next_write: now,
            cursor: first,
            lap: 1,
            check_at: first,
            check: 0,
            fill_at: first,
            phase: 0,
            text: 1,
            printed: 0,
        })
    }

    fn registers(&mut self) -> [&mut u64; 11] {
        [
            &mut self.block,
            &mut self.next_beat,
            &mut self.next_write,
            &mut self.cursor,
            &mut self.lap,
            &mut self.check_at,
            &mut self.check,
            &mut self.fill_at,
            &mut self.phase,
            &mut self.text,
            &mut self.printed,
        ]
    }

    pub(super) fn save(&mut self, out: &mut Writer) {
        for register in self.registers() {
            out.u64(*register);
        }
    }

    pub(super) fn load(reader: &mut Reader<'_>) -> Result<Self> {
        let mut program = Self::default();
        for register in program.registers() {
            *register = reader.u64()?;
        }
        Ok(program)
    }

    /// Does the next thing. `answer` is what the last port read returned.
    pub(super) fn step(
        &mut self,
        ram: &GuestRam,
        log: &SimLog,
        now: u64,
        answer: u32,
    ) -> Result<Step> {
        let mut guest = Guest { ram, log };
        if let Some(byte) = self.print() {
            return Ok(Step::Out(PORT_SERIAL, u32::from(byte)));
        }
        match self.phase {
            0 => self.look(&mut guest, now),
            1 => {
                self.phase = 2;
                Ok(Step::In(PORT_COMMAND))
            }
            2 => self.obey(&mut guest, answer),
            _ => Ok(Step::Out(PORT_WAIT, u32::MAX)),
        }
    }

    /// The next byte of the text being printed. Only the first vCPU prints.
    fn print(&mut self) -> Option<u8> {
        let text = TEXTS.get(usize::try_from(self.text.checked_sub(1)?).ok()?)?;
        let byte = text.as_bytes().get(usize::try_from(self.printed).ok()?);
        self.printed += 1;
        if self.block != BLOCKS || byte.is_none() {
            (self.text, self.printed) = (0, 0);
            return None;
        }
        byte.copied()
    }

    fn look(&mut self, guest: &mut Guest<'_>, now: u64) -> Result<Step> {
        let block = self.block;
        let [first, end, working_end, per_write, per_beat, spin] =
            guest.ram.read_words(block + words::FIRST as u64)?;
        if now >= self.next_beat {
            self.next_beat = now + per_beat;
            guest.count(block, words::BEATS)?;
            self.phase = 1;
            return Ok(ring(Doorbell::Beat));
        }
        if self.fill_at < end {
            return self.fill(guest, now, end);
        }
        if self.check != 0 {
            for _ in 0..SLICE {
                if self.check_at >= end {
                    guest.set(block, words::CHECKED, self.check)?;
                    self.check = 0;
                    self.check_at = first;
                    return Ok(ring(Doorbell::Checked));
                }
                if self.check_page(guest, working_end)? {
                    return Ok(ring(Doorbell::Fault));
                }
            }
        }
        if first == working_end || per_write != 0 && now < self.next_write {
            if self.check != 0 || spin != 0 {
                std::hint::spin_loop();
                return Ok(Step::Again);
            }
            let idle = self.next_beat.saturating_sub(now);
            return Ok(Step::Out(
                PORT_WAIT,
                u32::try_from(idle).unwrap_or(u32::MAX),
            ));
        }
        if per_write != 0 {
            let behind = if spin != 0 { 0 } else { per_beat };
            self.next_write = (self.next_write + per_write).max(now.saturating_sub(behind));
        }
        let fault = self.write_page(guest, first, working_end)?;
        let written = guest.count(block, words::WRITTEN)?;
        if fault {
            return Ok(ring(Doorbell::Fault));
        }
        if written % 4 == 0 && self.check == 0 {
            let fault = self.check_page(guest, working_end)?;
            if self.check_at >= end {
                self.check_at = first;
                guest.count(block, words::LAPS)?;
            }
            if fault {
                return Ok(ring(Doorbell::Fault));
            }
        }
        Ok(Step::Again)
    }

    fn fill(&mut self, guest: &mut Guest<'_>, now: u64, end: u64) -> Result<Step> {
        for _ in 0..SLICE {
            guest.fill_page(self.fill_at)?;
            self.fill_at += 1;
            guest.count(self.block, words::FILLED)?;
            if self.fill_at >= end {
                self.next_write = now;
                self.text = 2;
                return Ok(ring(Doorbell::Filled));
            }
        }
        Ok(Step::Again)
    }

    /// Takes the answer to the command read.
    fn obey(&mut self, guest: &mut Guest<'_>, answer: u32) -> Result<Step> {
        if answer == COMMAND_OFF {
            self.phase = 3;
            return Ok(ring(Doorbell::Off));
        }
        self.phase = 0;
        let [checked] = guest.ram.read_words(self.block + words::CHECKED as u64)?;
        let answer = u64::from(answer);
        if answer != checked && answer != self.check {
            self.check = answer;
            let [first] = guest.ram.read_words(self.block + words::FIRST as u64)?;
            self.check_at = first;
        }
        Ok(Step::Again)
    }

    /// Checks a page and steps over it; whether a fault is to be reported.
    fn check_page(&mut self, guest: &mut Guest<'_>, working_end: u64) -> Result<bool> {
        let page = self.check_at;
        self.check_at += 1;
        let count = match page {
            p if p >= working_end => 0,
            p if p < self.cursor => self.lap,
            _ => self.lap - 1,
        };
        if guest.holds(page, count)? {
            return Ok(false);
        }
        guest.fault(self.block, page)
    }

    fn write_page(&mut self, guest: &mut Guest<'_>, first: u64, end: u64) -> Result<bool> {
        let page = self.cursor;
        let [count] = guest.ram.read_words(guest.gpa(page * PAGE_SIZE)?)?;
        let fault = count != self.lap - 1 && guest.fault(self.block, page)?;
        let check = word(page, 1).wrapping_add(self.lap.wrapping_mul(STAMP));
        guest.write(page * PAGE_SIZE, &[self.lap, check])?;
        self.cursor += 1;
        if self.cursor >= end {
            self.cursor = first;
            self.lap += 1;
        }
        Ok(fault)
    }
}

fn ring(why: Doorbell) -> Step {
    Step::Out(PORT_DOORBELL, why as u32)
}

/// Word `j` of page `p` as it is filled.
fn word(page: u64, j: u64) -> u64 {
    (page * 512 + j).wrapping_mul(GOLDEN)
}

/// Guest memory as a guest writes it: noted in the guest's log, not in the record of what this
/// process changed.
struct Guest<'a> {
    ram: &'a GuestRam,
    log: &'a SimLog,
}

impl Guest<'_> {
    fn gpa(&self, offset: u64) -> Result<u64> {
        let gpa = self.ram.layout().gpa_of(offset);
        gpa.ok_or_else(|| DWCPError::Internal(format!("no RAM at offset {offset:#x}")))
    }

    fn write(&mut self, offset: u64, values: &[u64]) -> Result<()> {
        self.ram.write_as_guest(offset, values)?;
        self.log.wrote(offset);
        Ok(())
    }

    fn set(&mut self, block: u64, at: usize, value: u64) -> Result<()> {
        self.write(block + at as u64, &[value])
    }

    fn count(&mut self, block: u64, at: usize) -> Result<u64> {
        let [value] = self.ram.read_words(block + at as u64)?;
        self.set(block, at, value + 1)?;
        Ok(value + 1)
    }

    fn fill_page(&mut self, page: u64) -> Result<()> {
        let mut values = [0; 512];
        for (j, value) in (1u64..).zip(&mut values[1..]) {
            *value = word(page, j);
        }
        self.write(page * PAGE_SIZE, &values)
    }

    fn holds(&self, page: u64, count: u64) -> Result<bool> {
        let values: [u64; 512] = self.ram.read_words(self.gpa(page * PAGE_SIZE)?)?;
        let check = word(page, 1).wrapping_add(count.wrapping_mul(STAMP));
        let rest = (2u64..).zip(&values[2..]);
        Ok(values[0] == count
            && values[1] == check
            && rest.into_iter().all(|(j, &value)| value == word(page, j)))
    }

    /// Counts a fault; whether it is the first one.
    fn fault(&mut self, block: u64, page: u64) -> Result<bool> {
        let first = self.count(block, words::FAULTS)? == 1;
        if first {
            self.set(block, words::FIRST_FAULT, page)?;
        }
        Ok(first)
    }
}
