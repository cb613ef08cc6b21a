# The library that users link: every folder's objects in one static archive, d2quant::d2quant, with
# the headers of include/d2quant and nothing else installed beside it.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

add_library(d2quant_library STATIC)
add_library(d2quant::d2quant ALIAS d2quant_library)
set_target_properties(d2quant_library PROPERTIES OUTPUT_NAME d2quant EXPORT_NAME d2quant)
target_compile_features(d2quant_library PUBLIC cxx_std_20)
target_include_directories(d2quant_library PUBLIC
  "$<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
foreach(module ${D2Q_MODULES})
  target_sources(d2quant_library PRIVATE $<TARGET_OBJECTS:d2q_${module}>)
  target_link_libraries(d2quant_library PRIVATE ${D2Q_LIBS_${module}})
endforeach()

install(TARGETS d2quant_library EXPORT d2quantTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/d2quant DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT d2quantTargets NAMESPACE d2quant:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/d2quant)
configure_package_config_file(cmake/d2quantConfig.cmake.in
  "${CMAKE_CURRENT_BINARY_DIR}/d2quantConfig.cmake" INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/d2quant)
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/d2quantConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/d2quantConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/d2quantConfigVersion.cmake" cmake/D2qDependencies.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/d2quant)
