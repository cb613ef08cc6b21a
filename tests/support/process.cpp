#include "support/process.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace d2q::test {
namespace {

/// A temporary file that is gone as soon as it is closed: unlike a pipe it cannot fill up.
int anonymous_file() {
  std::FILE* file = std::tmpfile();
  if (file == nullptr) throw std::runtime_error("no temporary file");
  const int descriptor = dup(fileno(file));
  std::fclose(file);
  return descriptor;
}

std::string read_all(int descriptor) {
  lseek(descriptor, 0, SEEK_SET);
  std::string text;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(descriptor, buffer, sizeof(buffer))) > 0;)
    text.append(buffer, static_cast<size_t>(n));
  close(descriptor);
  return text;
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& arguments, const std::string& stdout_path,
                          const std::string& input) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const int out = anonymous_file();
  const int err = anonymous_file();
  const int in = anonymous_file();
  if (write(in, input.data(), input.size()) != static_cast<ssize_t>(input.size()))
    throw std::runtime_error("the input cannot be written");
  lseek(in, 0, SEEK_SET);
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    dup2(in, STDIN_FILENO);
    dup2(stdout_path.empty() ? out : open(stdout_path.c_str(), O_WRONLY), STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(in);
  int status = 0;
  waitpid(child, &status, 0);
  ProcessResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_all(out);
  result.err = read_all(err);
  return result;
}

ProcessResult run_d2quant(std::vector<std::string> arguments, const std::string& stdout_path,
                          const std::string& input) {
  arguments.insert(arguments.begin(), D2Q_PROGRAM);
  return run_process(arguments, stdout_path, input);
}

}  // namespace d2q::test
