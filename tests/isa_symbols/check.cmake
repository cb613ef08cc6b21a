# An inline function or template that an AVX object emits as a weak symbol may be the copy that the
# linker keeps for the whole program, which then dies with SIGILL on an older processor. So the
# objects of avx2/, avx512/, avx512vbmi/ and avx512bf16/ must hold no weak symbol of their own.
#   cmake -DNM=nm -DOBJECTS="a.o|b.o" -P check.cmake
string(REPLACE "|" ";" objects "${OBJECTS}")
list(FILTER objects INCLUDE REGEX "/(avx2|avx512|avx512vbmi|avx512bf16)/")
list(LENGTH objects n_objects)
if(n_objects LESS 2)
  message(FATAL_ERROR "only ${n_objects} ISA objects among: ${OBJECTS}")
endif()
set(failures "")
foreach(object ${objects})
  execute_process(COMMAND "${NM}" --demangle "${object}" OUTPUT_VARIABLE symbols RESULT_VARIABLE code)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${NM} ${object}: ${code}")
  endif()
  string(REGEX MATCHALL "[^\n]* [wWvVu] [^\n]*" weak "${symbols}")
  # The compilers' own bits for noexcept: a pointer, and a call of std::terminate.
  list(FILTER weak EXCLUDE REGEX " (DW\\.ref\\.__gxx_personality_v0|__clang_call_terminate)$")
  # Sanitizers add weak markers of their own; those builds run where they are built.
  list(FILTER weak EXCLUDE REGEX "__(asan|odr_asan|ubsan|tsan|sanitizer)")
  foreach(symbol ${weak})
    string(APPEND failures "\n  ${object}: ${symbol}")
  endforeach()
endforeach()
if(failures)
  message(FATAL_ERROR "weak symbols in ISA objects:${failures}")
endif()
message(STATUS "${n_objects} ISA objects without weak symbols")
