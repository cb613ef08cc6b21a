# Installs the build into a fresh folder and builds a project against it, as a user would:
# cmake -DBINARY_DIR=... -DSOURCE_DIR=... -DVERSION=... -DCOMPILER=... -DFLAGS=... -P install_test.cmake
# FLAGS are the build's own: what is linked against an instrumented library needs them too.
set(work "${BINARY_DIR}/install_test")
file(REMOVE_RECURSE "${work}")

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "failed: ${ARGN}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

run("${CMAKE_COMMAND}" --install "${BINARY_DIR}" --prefix "${work}/prefix")
run("${CMAKE_COMMAND}" -S "${SOURCE_DIR}/tests/install/consumer" -B "${work}/consumer"
  "-DCMAKE_PREFIX_PATH=${work}/prefix" "-DCMAKE_CXX_COMPILER=${COMPILER}"
  "-DCMAKE_CXX_FLAGS=${FLAGS}" -G "${GENERATOR}")
run("${CMAKE_COMMAND}" --build "${work}/consumer")
run("${work}/consumer/consumer")
if(NOT output MATCHES "${VERSION}")
  message(FATAL_ERROR "the consumer printed '${output}', expected ${VERSION}")
endif()
run("${work}/prefix/bin/d2quant" --version)
if(NOT output MATCHES "d2quant ${VERSION}")
  message(FATAL_ERROR "the installed program printed '${output}', expected ${VERSION}")
endif()
