// d2quant docs-cli: docs/cli.md, printed from the option table, so that the page cannot fall
// behind.
#include <fmt/format.h>

#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/output.h"

namespace d2q::cli {
namespace {

/// '|' would end a table's cell.
std::string cell(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '|') result += '\\';
    result += c;
  }
  return result;
}

void append_rows(const CLI::App& command, std::string& rows) {
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_group().empty() || option == command.get_help_ptr()) continue;
    const bool positional = option->get_positional();
    const std::string name =
        positional ? option->get_name(true, false) : option->get_name(false, true);
    const std::string type =
        positional || option->get_type_name().empty() ? "" : " " + option->get_type_name();
    const std::string value =
        option->get_default_str().empty() ? "" : " [" + option->get_default_str() + "]";
    rows += fmt::format("| `{}`{} | {}{} |\n", name, cell(type), cell(option->get_description()),
                        cell(value));
  }
  // Option groups are subcommands without a name.
  for (const CLI::App* group :
       command.get_subcommands([](const CLI::App* sub) { return sub->get_name().empty(); })) {
    append_rows(*group, rows);
  }
}

void print_options(const CLI::App& command) {
  std::string rows;
  append_rows(command, rows);
  if (!rows.empty()) print("\n| option | meaning |\n|---|---|\n" + rows);
}

std::vector<const CLI::App*> shown_subcommands(const CLI::App& command) {
  return command.get_subcommands(
      [](const CLI::App* sub) { return !sub->get_name().empty() && !sub->get_group().empty(); });
}

void print_command(const CLI::App& command, const std::string& parents) {
  const std::string name = parents + command.get_name();
  const auto subcommands = shown_subcommands(command);
  if (subcommands.empty()) {
    print(fmt::format("\n## {}\n\n{}.\n", name, command.get_description()));
    if (!command.get_footer().empty()) print(fmt::format("\n```\n{}\n```\n", command.get_footer()));
    print_options(command);
  }
  for (const CLI::App* sub : subcommands) print_command(*sub, name + " ");
}

void print_docs(const CLI::App& app) {
  print(
      "# Command line\n\nWritten by `d2quant docs-cli` from the program's own option table; do not "
      "edit.\n\n");
  print(app.get_description() + "\n\n" + app.get_footer() + "\n\nOptions of every command:\n");
  print_options(app);
  for (const CLI::App* command : shown_subcommands(app)) {
    print_command(*command, "d2quant ");
  }
}

}  // namespace

void add_docs_command(CLI::App& app, Program& program) {
  CLI::App* command = app.add_subcommand("docs-cli", "Print docs/cli.md");
  command->group("");
  command->callback([&app, &program] { program.action = [&app] { print_docs(app); }; });
}

}  // namespace d2q::cli
