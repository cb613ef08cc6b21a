# The CUDA device. Kernels are .cu files, compiled by nvcc and included by nothing but plain headers;
# everything that talks to the rest of the library is .cpp and needs only the toolkit's headers.
if(D2Q_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  set(D2Q_HAS_CUDA ${CMAKE_CUDA_COMPILER})
else()
  set(D2Q_HAS_CUDA ${D2Q_CUDA})
endif()
if(NOT D2Q_HAS_CUDA)
  message(STATUS "CUDA device: not built (D2Q_CUDA=${D2Q_CUDA})")
  return()
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  # Ampere on by machine code, whatever comes later through the last one's PTX.
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
endif()
enable_language(CUDA)
find_package(CUDAToolkit 12.0 REQUIRED)
# CMake 3.25 does not know that nvcc has C++20.
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
message(STATUS "CUDA device: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")
# NCCL's header only: the library is opened at run time, when several GPUs are asked for.
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(NOT NCCL_INCLUDE_DIR)
  message(STATUS "CUDA device: no nccl.h, one GPU only")
endif()
