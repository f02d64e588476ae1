# SPDX-License-Identifier: GPL-2.0-or-later
# What the library links to is looked for here; its headers need none of it.
include(CMakeFindDependencyMacro)
find_dependency(fmt)
find_dependency(zydis)
find_dependency(PkgConfig)
pkg_check_modules(LIBBPF REQUIRED IMPORTED_TARGET libbpf)
pkg_check_modules(LIBELF REQUIRED IMPORTED_TARGET libelf)
include(${CMAKE_CURRENT_LIST_DIR}/shadowmonitor.cmake)
