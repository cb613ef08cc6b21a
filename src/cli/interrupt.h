// Ctrl-C: the first one asks the work to stop at its next progress report, the second one kills.
#pragma once

namespace d2q::cli {

/// Takes over SIGINT until the first one has come.
void handle_interrupts();

/// True once SIGINT has come.
bool interrupted() noexcept;

/// Throws Error{kInterrupted} once SIGINT has come.
void throw_if_interrupted();

}  // namespace d2q::cli
