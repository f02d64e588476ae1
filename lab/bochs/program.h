/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Debian's bochs-bin as a library sees it that is preloaded into it: the program exports its functions
 * for its plugins, so they are found by name, and what calls them can be changed.
 */
#pragma once

#include <stdint.h>

#define CALL_SIZE 5 /* e8, distance */

/* The program's code; NULL if this process is no Bochs. Set by program_find. */
extern uint8_t *text, *text_end;

/* 0 if this process is Bochs, with its code found. */
int program_find(void);

/* Lets the code be written, or only be run again; 0, or -1 with errno. */
int program_open(void);
int program_close(void);

/* The program's own function, or other object, of that name; NULL if there is none. */
uint8_t* program_function(const char* name);
void* program_object(const char* name);

/*
 * Calls `change` for each call and jump to that function, with what is given as `what`. The bytes
 * cannot be anything else: the distance says where they are. Says so on stderr if there is none.
 */
void change_calls(const char* name, void (*change)(uint8_t* at, const void* what), const void* what);

/* For change_calls: the call becomes other code of CALL_SIZE bytes, or goes elsewhere. */
void put_code(uint8_t* at, const void* code);
void put_target(uint8_t* at, const void* target);

/* Room for `size` bytes of code that the program's calls reach; NULL if there is none. */
uint8_t* room_near(unsigned size);

/* Puts code there and returns where it ends: bytes; movabs $value,%rax; the same, then jmp *%rax. */
uint8_t* put(uint8_t* at, const void* code, unsigned size);
uint8_t* put_load(uint8_t* at, const void* value);
uint8_t* put_jump(uint8_t* at, const void* target);

/* Calls of that function go to one of ours. */
void redirect_calls(const char* name, const void* target);

/* The parts of preload.c; walk.c is called by quick.c. */
void quick_begin(void);
void walk_begin(void);
void mend_begin(void);
void host_port_begin(void);
