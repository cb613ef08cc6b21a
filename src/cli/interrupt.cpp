#include "cli/interrupt.h"

#include <array>
#include <csignal>
#include <cstddef>

#include "base/error.h"

namespace d2q::cli {
namespace {

volatile std::sig_atomic_t interrupt_seen = 0;

extern "C" void remember_interrupt(int) { interrupt_seen = 1; }

/// The signal gets a stack of its own: oneDNN's f32 products let the stack pointer lead into a
/// buffer on the heap, and what the system writes below it, up to 11 KB where there are tiles,
/// would damage what lies there. The main thread is the one that the system interrupts.
void give_signals_a_stack() {
  alignas(64) static std::array<std::byte, 1 << 16> memory;
  stack_t stack = {};
  stack.ss_sp = memory.data();
  stack.ss_size = memory.size();
  sigaltstack(&stack, nullptr);
}

}  // namespace

void handle_interrupts(bool end_reads) {
  interrupt_seen = 0;
  give_signals_a_stack();
  struct sigaction action = {};
  action.sa_handler = remember_interrupt;
  // The handler serves once, after which SIGINT kills again: the way out when no report comes.
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_ONSTACK | (end_reads ? 0 : SA_RESTART);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
}

void leave_interrupts_alone() { std::signal(SIGINT, SIG_DFL); }

bool interrupted() noexcept { return interrupt_seen != 0; }

void throw_if_interrupted() {
  if (interrupted()) fail(ErrorCode::kInterrupted, "interrupted");
}

}  // namespace d2q::cli
