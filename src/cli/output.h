// Results on stdout or in a file; a full disk is an error, never a silent loss.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace d2q::cli {

/// From here on what print() writes is all that stdout gets: what libraries print of their own, as
/// NCCL does under NCCL_DEBUG, goes to stderr. Called once, before anything is printed.
void keep_stdout_for_results();

/// Writes to stdout. Throws Error{kIo}.
void print(std::string_view text);
void print_line(std::string_view text);
/// One JSON object, two-space indented, numbers unrounded (shortest form that reads back the same);
/// malformed UTF-8 in its texts is replaced.
std::string json_text(const nlohmann::json& value);
void print_json(const nlohmann::json& value);

/// Flushes stdout. Throws Error{kIo} when what was printed could not be written.
void finish_output();

/// A text file of at most 64 GB. Throws Error{kNotFound}, Error{kIo} or Error{kCorrupt} naming it.
std::string read_text(const std::filesystem::path& path);

}  // namespace d2q::cli
