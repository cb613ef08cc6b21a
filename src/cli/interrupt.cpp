#include "cli/interrupt.h"

#include <csignal>

#include "base/error.h"

namespace d2q::cli {
namespace {

volatile std::sig_atomic_t interrupt_seen = 0;

extern "C" void remember_interrupt(int) { interrupt_seen = 1; }

}  // namespace

void handle_interrupts(bool end_reads) {
  interrupt_seen = 0;
  struct sigaction action = {};
  action.sa_handler = remember_interrupt;
  // The handler serves once, after which SIGINT kills again: the way out when no report comes.
  action.sa_flags = static_cast<int>(SA_RESETHAND) | (end_reads ? 0 : SA_RESTART);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() noexcept { return interrupt_seen != 0; }

void throw_if_interrupted() {
  if (interrupted()) fail(ErrorCode::kInterrupted, "interrupted");
}

}  // namespace d2q::cli
