// Ctrl-C: the first one asks the work to stop at its next progress report, the second one kills.
#pragma once

namespace d2q::cli {

/// Takes over SIGINT until the next one has come, and forgets earlier ones. `end_reads`: a read
/// that waits for input ends when it comes.
void handle_interrupts(bool end_reads = false);

/// Lets SIGINT end the program at once: for work that keeps nothing and never asks.
void leave_interrupts_alone();

/// True once SIGINT has come.
bool interrupted() noexcept;

/// Throws Error{kInterrupted} once SIGINT has come.
void throw_if_interrupted();

}  // namespace d2q::cli
