/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the host's loader may rely on in payload.elf.
 *
 * The file is an ELF64 ET_EXEC for x86-64, linked at the addresses of abi/layout.h,
 * without relocations and undefined symbols. Its PT_LOAD segments, in this order:
 *
 *   address             flags  size of the area     rights: main view, shadow view
 *   SM_GATE_OFFSET      r-x    exactly one page     --x, r-x
 *   SM_TEXT_OFFSET      r-x    SM_TEXT_MAX_SIZE     ---, r-x
 *   SM_RODATA_OFFSET    r--    SM_RODATA_MAX_SIZE   ---, r--
 *   SM_DATA_OFFSET      rw-    SM_DATA_MAX_SIZE     ---, rw-
 *
 * Each starts on a page of its own; p_filesz bytes are copied and the rest of the
 * pages, which p_memsz may reach into, is zero. .gate and .text fill their last
 * page (executable pages hold no bytes that the link did not put there). The names
 * below are in .symtab; look them up by name, not by number.
 */
#ifndef SHADOWMONITOR_PAYLOAD_SYMBOLS_H
#define SHADOWMONITOR_PAYLOAD_SYMBOLS_H

/*
 * Function in .gate: the INT 20 gate, target of IDT entry 20. The entry must be a
 * 64-bit interrupt gate (type 14), DPL 0, IST 0, selector of the kernel's CS.
 */
#define SM_SYMBOL_GATE_INT20 "sm_gate_int20"

/*
 * Function in .gate: where a hook of 5 bytes leads, which is a `call rel32` in place of a 5-byte
 * NOP. gate.S says what the host must see to before it puts one in and after it has taken one out.
 */
#define SM_SYMBOL_GATE_CALL "sm_gate_call"

/*
 * Place in .gate: a 5-byte `jmp rel32` (first byte e9) that an INT 20 of no hook takes, in
 * the main view, with the interrupt frame and all registers as they were delivered.
 * As linked it leads to code in .gate that continues after the INT. If the guest had
 * a handler of vector 20 of its own, the loader replaces the four bytes after the e9
 * in its copy of the page: rel32 = handler - (address of this symbol + 5).
 */
#define SM_SYMBOL_GATE_CHAIN_JUMP "sm_gate_chain_jump"

/* uint32_t in .rodata: the SM_ABI_VERSION that the payload was built with. */
#define SM_SYMBOL_ABI_VERSION "sm_payload_abi_version"

/*
 * uint64_t in .data: how often the gate found every slot taken and sent the guest
 * back to its INT 20 or CALL to try again. No event is lost by that; a number that keeps
 * rising while nothing is recorded means that slots have leaked.
 */
#define SM_SYMBOL_NO_SLOT "sm_payload_no_slot"

#endif
