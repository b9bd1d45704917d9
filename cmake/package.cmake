# The C++ package: headers of the kernel tables, and what find_package(lamina) reads, beside the library of kernels.
#
#   <lamina>/include/lamina/kernels/<family>/<family>.h …    argument structs and tables, with what they include
#   <lamina>/cmake/lamina-config.cmake                       the target lamina::kernels
set(package ${LAMINA_OUTPUT_DIR})
if(SKBUILD)
  set(package ${CMAKE_CURRENT_BINARY_DIR}/package)
endif()

set(public_headers kernels/loss/reduction.h)
foreach(name IN ITEMS activation device dtype export integer isa kernel_table parallel precision view)
  list(APPEND public_headers base/${name}.h)
endforeach()
file(GLOB kernel_headers RELATIVE ${CMAKE_SOURCE_DIR}/csrc CONFIGURE_DEPENDS csrc/kernels/*/*.h)
foreach(header IN LISTS kernel_headers)
  file(STRINGS csrc/${header} table REGEX "^LAMINA_KERNEL_TABLE")
  if(table)
    list(APPEND public_headers ${header})
  endif()
endforeach()
# Among the sources, includes start at csrc/; installed, with lamina/.
foreach(header IN LISTS public_headers)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS csrc/${header})
  file(READ csrc/${header} text)
  string(REGEX REPLACE "#include \"(base|kernels)/" "#include \"lamina/\\1/" text "${text}")
  file(GENERATE OUTPUT ${package}/include/lamina/${header} CONTENT "${text}")
endforeach()

set(level_definitions ${levels})
list(TRANSFORM level_definitions TOUPPER)
list(TRANSFORM level_definitions PREPEND LAMINA_BUILD_)
include(CMakePackageConfigHelpers)
configure_file(cmake/lamina-config.cmake.in ${package}/cmake/lamina-config.cmake @ONLY)
write_basic_package_version_file(${package}/cmake/lamina-config-version.cmake VERSION ${version}
                                 COMPATIBILITY SameMinorVersion)
if(SKBUILD)
  install(DIRECTORY ${package}/include ${package}/cmake DESTINATION lamina)
endif()
