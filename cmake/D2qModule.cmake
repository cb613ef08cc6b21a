# d2q_module(<folder> DEPENDS <folders>): the OBJECT library of src/<folder>, with every
# .cpp below it except tests; ISA subfolders get their flags here and nowhere else.

add_library(d2q_options INTERFACE)
target_include_directories(d2q_options INTERFACE
  "${CMAKE_CURRENT_SOURCE_DIR}/src" "${CMAKE_CURRENT_SOURCE_DIR}/include")
# No vector crosses a translation unit, so GCC's warning about their calling convention says nothing.
target_compile_options(d2q_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX,C>:-Wno-psabi;-Wall;-Wextra;-Wpedantic;-Wshadow;-Wnon-virtual-dtor>"
  "$<$<AND:$<BOOL:${D2Q_WERROR}>,$<COMPILE_LANGUAGE:CXX,C>>:-Werror>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra;--extended-lambda>"
  "$<$<AND:$<BOOL:${D2Q_WERROR}>,$<COMPILE_LANGUAGE:CUDA>>:-Werror=all-warnings>")

set(D2Q_AVX2_FLAGS -mavx2 -mfma -mf16c)
set(D2Q_AVX512_FLAGS -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12's own intrinsics headers read their "undefined" vectors (GCC bug 105593).
  list(APPEND D2Q_AVX512_FLAGS -Wno-uninitialized -Wno-maybe-uninitialized)
  list(APPEND D2Q_AVX2_FLAGS -fno-gcse)
  list(APPEND D2Q_AVX512_FLAGS -fno-gcse)
endif()
set(D2Q_AVX512VBMI_FLAGS ${D2Q_AVX512_FLAGS} -mavx512vbmi -mgfni)
set(D2Q_AVX512BF16_FLAGS ${D2Q_AVX512_FLAGS} -mavx512bf16)

# For sources that include <regex>: under this flag GCC 12 takes members of its states for
# uninitialised (GCC bug 105616).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_FLAGS MATCHES "-fsanitize=address")
  set(D2Q_REGEX_FLAGS -Wno-maybe-uninitialized)
endif()
set_source_files_properties(src/quant/linear_settings.cpp src/quant/options.cpp
  PROPERTIES COMPILE_OPTIONS "${D2Q_REGEX_FLAGS}")

# Third-party libraries a folder uses itself.
set(D2Q_LIBS_base fmt::fmt Threads::Threads PkgConfig::XXHASH)
set(D2Q_LIBS_format nlohmann_json::nlohmann_json)
set(D2Q_LIBS_kernels PkgConfig::OPENBLAS ${LAPACKE_LIBRARY} DNNL::dnnl gomp)
if(D2Q_HAS_CUDA)
  list(APPEND D2Q_LIBS_kernels CUDA::cudart_static CUDA::cublas CUDA::cublasLt CUDA::cusolver
    ${CMAKE_DL_LIBS})
  if(NCCL_INCLUDE_DIR)
    set_source_files_properties(src/kernels/cuda/cuda_nccl.cpp PROPERTIES
      COMPILE_DEFINITIONS D2Q_HAS_NCCL INCLUDE_DIRECTORIES "${NCCL_INCLUDE_DIR}")
  endif()
endif()
set(D2Q_LIBS_text PkgConfig::PCRE2 PkgConfig::UTF8PROC nlohmann_json::nlohmann_json)
set(D2Q_LIBS_model nlohmann_json::nlohmann_json)
set(D2Q_LIBS_quant nlohmann_json::nlohmann_json)
set(D2Q_LIBS_export nlohmann_json::nlohmann_json)
set(D2Q_LIBS_eval nlohmann_json::nlohmann_json)
set(D2Q_LIBS_report nlohmann_json::nlohmann_json)

set(D2Q_MODULES "" CACHE INTERNAL "")
function(d2q_module name)
  cmake_parse_arguments(ARG "" "" "DEPENDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/src/${name}/*.cpp")
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  if(D2Q_HAS_CUDA)
    file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/src/${name}/*.cu")
    list(APPEND sources ${cuda_sources})
    list(FILTER sources EXCLUDE REGEX "/cuda/no_cuda\\.cpp$")
  else()
    list(FILTER sources EXCLUDE REGEX "/cuda/cuda_[^/]*\\.cpp$")
  endif()
  if(NOT sources)
    # A folder without sources yet still has a row in the table of arrows.
    file(WRITE "${CMAKE_BINARY_DIR}/empty_${name}.cpp" "namespace d2q {}\n")
    set(sources "${CMAKE_BINARY_DIR}/empty_${name}.cpp")
  endif()
  add_library(d2q_${name} OBJECT ${sources})
  target_link_libraries(d2q_${name} PUBLIC d2q_options ${D2Q_LIBS_${name}})
  foreach(dependency ${ARG_DEPENDS})
    target_link_libraries(d2q_${name} PUBLIC ${D2Q_LIBS_${dependency}})
  endforeach()
  foreach(source ${sources})
    if(source MATCHES "/avx2/")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${D2Q_AVX2_FLAGS}")
    elseif(source MATCHES "/avx512bf16/")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${D2Q_AVX512BF16_FLAGS}")
    elseif(source MATCHES "/avx512vbmi/")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${D2Q_AVX512VBMI_FLAGS}")
    elseif(source MATCHES "/avx512/")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${D2Q_AVX512_FLAGS}")
    endif()
  endforeach()
  set(D2Q_DEPENDS_${name} "${ARG_DEPENDS}" CACHE INTERNAL "")
  set(D2Q_MODULES "${D2Q_MODULES};${name}" CACHE INTERNAL "")
endfunction()

# Links the folder's objects and those of everything below it.
function(d2q_link_module target name)
  foreach(module ${name} ${D2Q_DEPENDS_${name}})
    target_link_libraries(${target} PRIVATE d2q_${module})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:d2q_${module}>)
  endforeach()
endfunction()

# One test program a folder: d2q_<folder>_test, from every src/<folder>/**/*_test.cpp; those that
# include CUDA's headers are with_cuda_*_test.cpp and need the CUDA device.
function(d2q_register_module_tests)
  foreach(module ${D2Q_MODULES})
    file(GLOB_RECURSE tests CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/src/${module}/*_test.cpp")
    if(NOT D2Q_HAS_CUDA)
      list(FILTER tests EXCLUDE REGEX "/cuda/with_cuda_[^/]*$")
    endif()
    if(tests)
      add_executable(d2q_${module}_test ${tests})
      d2q_link_module(d2q_${module}_test ${module})
      target_link_libraries(d2q_${module}_test PRIVATE GTest::gtest_main GTest::gmock)
      target_compile_definitions(d2q_${module}_test PRIVATE
        D2Q_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/data" D2Q_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
      gtest_discover_tests(d2q_${module}_test TEST_PREFIX "${module}." DISCOVERY_MODE PRE_TEST
        PROPERTIES LABELS unit TIMEOUT 300)
      set_property(GLOBAL APPEND PROPERTY D2Q_REGISTERED_TESTS d2q_${module}_test)
    endif()
  endforeach()
endfunction()
