# SPDX-License-Identifier: GPL-2.0-or-later
# Fuzz targets. libFuzzer comes with clang only, whatever compiler builds the rest: they are compiled
# by rules of their own, all sources with coverage, ASan and UBSan. So they are the same in every
# preset, and the one that instruments by itself leaves them out.
#
#   if(SM_FUZZING)
#     sm_fuzz_objects(OBJECTS SOURCES src/... [INCLUDES DIRECTORY...] [DEPENDS TARGET...])
#     sm_add_fuzzer(NAME OBJECTS ${OBJECTS} [LIBRARIES -lfmt...])
#     sm_add_seeds(NAME COMMAND MAKER... FOLDER)
#     sm_add_fuzz_test(NAME FUZZER SEEDS NAME FOLDER OPTIONS -max_len=N...)
#
# Sources are named from the root. The first appends to the list OBJECTS; the second makes the
# program NAME in the folder's binary directory. The third is a test that makes seeds, for each fuzz
# test that names it; OPTIONS are libFuzzer's.
set(SM_FUZZING OFF)
if(SM_SANITIZE)
  return()
endif()
find_program(SM_CLANGXX NAMES clang++-14 clang++)
if(SM_CLANGXX)
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/probe.cpp
    "extern \"C\" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }\n")
  execute_process(
    COMMAND ${SM_CLANGXX} -fsanitize=fuzzer,address,undefined probe.cpp -o probe
    WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}
    RESULT_VARIABLE probe_failed OUTPUT_QUIET ERROR_QUIET)
  if(probe_failed EQUAL 0)
    set(SM_FUZZING ON)
  endif()
endif()
if(NOT SM_FUZZING)
  message(STATUS "Fuzz targets are left out: no clang with libFuzzer "
    "(apt-get install clang-14 libclang-rt-14-dev)")
  return()
endif()

function(sm_fuzz_objects list_name)
  cmake_parse_arguments(arg "" "" "SOURCES;INCLUDES;DEPENDS" ${ARGN})
  list(TRANSFORM arg_INCLUDES PREPEND -I)
  foreach(source ${arg_SOURCES})
    string(REPLACE / _ name ${source})
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
    add_custom_command(OUTPUT ${object}
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${SM_CLANGXX} -std=c++20 -g -O1 -Wall -Wextra
              -I${CMAKE_SOURCE_DIR} -I${CMAKE_SOURCE_DIR}/include ${arg_INCLUDES} -fsanitize=fuzzer-no-link,address,undefined
              -fno-sanitize-recover=all -DFMT_SHARED -MD -MF ${object}.d
              -c ${CMAKE_SOURCE_DIR}/${source} -o ${object}
      DEPENDS ${CMAKE_SOURCE_DIR}/${source} ${arg_DEPENDS}
      DEPFILE ${object}.d
      COMMENT "Compiling ${source} for fuzzing"
      VERBATIM)
    list(APPEND ${list_name} ${object})
  endforeach()
  set(${list_name} ${${list_name}} PARENT_SCOPE)
endfunction()

function(sm_add_fuzzer name)
  cmake_parse_arguments(arg "" "" "OBJECTS;LIBRARIES" ${ARGN})
  set(binary ${CMAKE_CURRENT_BINARY_DIR}/${name})
  add_custom_command(OUTPUT ${binary}
    COMMAND ${SM_CLANGXX} -fsanitize=fuzzer,address,undefined ${arg_OBJECTS} ${arg_LIBRARIES}
            -o ${binary}
    DEPENDS ${arg_OBJECTS}
    COMMENT "Linking ${name}"
    VERBATIM)
  add_custom_target(${name}_program ALL DEPENDS ${binary})
endfunction()

function(sm_add_seeds name)
  cmake_parse_arguments(arg "" "" "COMMAND" ${ARGN})
  add_test(NAME ${name} COMMAND ${arg_COMMAND})
  set_tests_properties(${name} PROPERTIES
    FIXTURES_SETUP ${name} SKIP_RETURN_CODE 77 TIMEOUT 1500 LABELS fuzz)
endfunction()

function(sm_add_fuzz_test name fuzzer)
  cmake_parse_arguments(arg "" "" "SEEDS;OPTIONS" ${ARGN})
  list(POP_FRONT arg_SEEDS fixture folder)
  add_test(NAME ${name}
    COMMAND ${CMAKE_SOURCE_DIR}/tests/fuzz/run_fuzz.sh ${CMAKE_CURRENT_BINARY_DIR}/${fuzzer} ${folder}
            ${arg_OPTIONS})
  set_tests_properties(${name} PROPERTIES FIXTURES_REQUIRED ${fixture} TIMEOUT 300 LABELS fuzz)
endfunction()
